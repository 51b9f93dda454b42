"""Waiting for other processes."""

import time
from collections.abc import Callable

_SECONDS = 30.0
_POLL_SECONDS = 0.02


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {_SECONDS:.0f} s"
        time.sleep(_POLL_SECONDS)
