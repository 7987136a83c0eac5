"""Kinds of corpora: text that a model or an endpoint generates, one file each."""
