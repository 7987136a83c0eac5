"""Training on examples and on preference pairs, by LoRA or of all weights."""
