"""The entries of a config as types, by the list that they stand in."""
