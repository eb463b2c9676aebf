"""Chat models behind an OpenAI-compatible address, for those who judge and those who write."""
