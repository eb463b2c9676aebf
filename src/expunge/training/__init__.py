"""Training: which rows in which step, what they are worth, and a thin Trainer around it."""
