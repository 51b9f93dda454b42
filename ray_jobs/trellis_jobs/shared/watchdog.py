"""Ends a process that hangs, with a word on where."""

import faulthandler
import logging
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

STALLED_EXIT: Final = 4
_PASSES: Final = 50
_MEDIANS: Final = 20
_LOOKS: Final = 10
_log = logging.getLogger(__name__)


def end_stalled() -> None:
    """Print where every thread stands, and end the process; its attempts go on elsewhere, from their checkpoints."""
    faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
    os._exit(STALLED_EXIT)


class Watchdog:
    """Watches that the loop goes on while there is work."""

    def __init__(
        self,
        stall_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        on_stall: Callable[[], None] = end_stalled,
    ) -> None:
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._on_stall = on_stall
        self._passes: deque[float] = deque(maxlen=_PASSES)
        self._since = clock()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look from a thread of its own from now on."""
        self.beat()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no longer."""
        self._stopped.set()

    def beat(self, pass_seconds: float | None = None) -> None:
        """The loop went round, and if it ran a pass, that took so long."""
        if pass_seconds is not None:
            self._passes.append(pass_seconds)
        self._since = self._clock()

    @property
    def limit(self) -> float:
        """Seconds without a beat after which the process is taken to hang."""
        median = statistics.median(self._passes) if self._passes else 0.0
        return max(self._stall_seconds, _MEDIANS * median)

    def look(self) -> None:
        """End the process if it hangs."""
        quiet = self._clock() - self._since
        if quiet > self.limit:
            _log.critical("The trainer has not moved for %.0f seconds (%.0f are allowed).", quiet, self.limit)
            self._on_stall()

    def _run(self) -> None:
        while not self._stopped.wait(min(30.0, self._stall_seconds / _LOOKS)):
            self.look()
