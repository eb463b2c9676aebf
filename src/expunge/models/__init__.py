"""Models: where they come from, how one forward pass runs, and what a frozen reference is worth."""
