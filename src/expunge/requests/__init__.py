"""Deletion requests that keep coming: what was asked, what was done about it, and by which model."""
