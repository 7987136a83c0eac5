"""Raw tables into canonical rows, and rows into prompts and training examples."""
