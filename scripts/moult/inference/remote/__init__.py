"""Remote, OpenAI-compatible endpoints."""
