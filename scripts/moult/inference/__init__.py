"""Models and endpoints that answer, and the journal of their answers."""
