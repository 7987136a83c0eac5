"""Formats of raw datasets, one file each."""
