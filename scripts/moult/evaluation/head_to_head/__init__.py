"""Suites that set models head to head under a judge, as AlpacaEval, Arena-Hard and MT-Bench do."""
