"""Linguistic probes as in Holmes: sets on disk, encodings, probes on them, their scores."""
