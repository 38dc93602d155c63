"""Chaos: the real programs under random faults, round after round; `python -m tests.chaos --help`."""
