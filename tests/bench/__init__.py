"""Measurements: scripts that are run with `python -m tests.bench.NAME [--quick] [--json FILE]`, and what they share."""
