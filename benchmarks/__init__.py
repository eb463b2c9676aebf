"""Speed and memory, measured side by side with a plain implementation of the same work; no part of the test suite."""
