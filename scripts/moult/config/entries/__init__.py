"""The entries of the config's lists."""
