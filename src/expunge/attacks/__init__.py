"""Attacks on an unlearned model: what brings back what it was made to forget, and how much of it."""
