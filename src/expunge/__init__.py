"""Make a language model forget what it must, keep what it should, and show the evidence."""

__version__ = "0.1.0"
