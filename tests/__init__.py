"""Trellis's tests: unit, contract, integration, e2e and bench."""
