"""Evaluation: one teacher-forced pass and one generation pass feed every metric."""
