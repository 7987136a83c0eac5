"""The config as types."""
