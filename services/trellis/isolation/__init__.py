"""Negative tests on a running installation: can one tenant see, change, slow down or outspend another?

Everything goes through the public API, as an attacker would, with two tenants that are made for it and deleted again.
"""

from trellis.isolation.finding import Finding, Outcome
from trellis.isolation.report import Report
from trellis.isolation.run import CHECK_IDS, Options, verify

__all__ = ["CHECK_IDS", "Finding", "Options", "Outcome", "Report", "verify"]
