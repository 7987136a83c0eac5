"""Moult builds language models the way a build system builds programs."""

__version__ = "0.1.0"
