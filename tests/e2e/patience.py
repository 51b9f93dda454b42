"""Waiting for what other processes do, with a deadline."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_SECONDS = 90.0
_POLL_SECONDS = 0.05


def until(found: Callable[[], T | None], what: str, seconds: float = _SECONDS) -> T:
    """Look until something is found, and return it; nothing tells of another process, so that it is asked."""
    deadline, clock = time.monotonic() + seconds, threading.Event()
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        clock.wait(_POLL_SECONDS)
    return result
