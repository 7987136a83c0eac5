"""Kinds of suites: how models and corpora are measured."""
