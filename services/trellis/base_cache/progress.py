"""How a fetch goes: events, as lines for people or as JSON for programs."""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, TextIO

from trellis.base_cache.amounts import amount, part_of, span

_EVERY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    event: str
    """`started`, `progress`, `waiting`, `retrying`, `checking`, `done` or `present`."""
    source: str
    revision: str = ""
    done: int = 0
    total: int = 0
    rate: float = 0.0
    """Bytes a second, since this fetch began."""
    eta_seconds: float | None = None
    message: str = ""

    def __str__(self) -> str:
        if self.event != "progress":
            return self.message
        left = f", {span(self.eta_seconds)} left" if self.eta_seconds is not None else ""
        return f"{part_of(self.done, self.total)}, {amount(self.rate)}/s{left}"


Progress = Callable[[Event], None]
"""Is told each event, in any thread, one at a time."""


def silent(_event: Event) -> None:
    """For who does not want to know."""


def as_lines(stream: TextIO = sys.stderr) -> Progress:
    """A line for people for each event."""
    return lambda event: print(event, file=stream, flush=True)


def as_json(stream: TextIO = sys.stderr) -> Progress:
    """A JSON object a line for each event."""
    return lambda event: print(json.dumps(asdict(event)), file=stream, flush=True)


class Meter:
    """Counts the bytes that are here, and says so now and then."""

    def __init__(
        self, progress: Progress, source: str, revision: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = progress
        self._source = source
        self._revision = revision
        self._clock = clock
        self._lock = threading.Lock()
        self._begun = self._said = clock()
        self._before = 0
        self.done = 0
        self.total = 0

    def begin(self, done: int, total: int) -> None:
        """So much is there already, of so much."""
        self.done, self.total, self._before = done, total, done
        self._begun = self._said = self._clock()

    def add(self, count: int) -> None:
        """So many bytes have come; fewer than 0 were thrown away."""
        with self._lock:
            self.done += count
            if self._clock() - self._said >= _EVERY_SECONDS:
                self._said = self._clock()
                self._progress(self._event("progress"))

    def found(self, count: int) -> None:
        """So many bytes need not be fetched."""
        with self._lock:
            self.done += count
            self._before += count

    def say(self, event: str, message: str) -> None:
        """Something that is no count."""
        with self._lock:
            self._progress(self._event(event, message))

    def _event(self, event: str, message: str = "") -> Event:
        spent = self._clock() - self._begun
        rate = max(0.0, (self.done - self._before) / spent) if spent > 0 else 0.0
        eta = (self.total - self.done) / rate if rate > 0 else None
        return Event(event, self._source, self._revision, self.done, self.total, rate, eta, message)
