"""scopes."""
