"""Training on examples and on preference pairs."""
