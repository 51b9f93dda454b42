"""Rates a minute, as token buckets: what is saved up, what may be taken, and how long to wait for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

_MINUTE = 60.0


class RateKind(StrEnum):
    """What is counted; a bucket each."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was there at a moment. Times are seconds on the clock of whoever asks; a bucket's own time never goes back, so
    that what a clock which is ahead has counted is not counted again.
    """

    level: float
    """What may be taken at once; below 0 what has been promised to calls that wait for it, or used beyond what was asked."""
    time: float

    @classmethod
    def full(cls, per_minute: int, now: float) -> Self:
        """One that nobody has taken from: a minute's worth."""
        return cls(float(per_minute), now)

    def at(self, now: float, per_minute: int) -> Self:
        """The bucket as it is then: it fills with the rate, up to a minute's worth."""
        seconds = max(0.0, now - self.time)
        level = min(float(per_minute), self.level + seconds * per_minute / _MINUTE)
        return replace(self, level=level, time=self.time + seconds)

    def wait(self, amount: float, per_minute: int, now: float) -> float:
        """Seconds from now until so much may be taken, of a bucket as it is at `now` or later."""
        missing = amount - self.level
        if missing <= 0:
            return 0.0
        return missing * _MINUTE / per_minute + (self.time - now)

    def less(self, amount: float) -> Self:
        """The bucket without so much; with more, if it is negative, as far as it goes when it is next looked at."""
        return replace(self, level=self.level - amount)


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer to one who would take from a tenant's buckets."""

    wait: float
    """Seconds until it may go on, if it was taken; else until trying again is worth while."""
    granted: bool
    short: Mapping[RateKind, float] = field(default_factory=dict)
    """The levels of the buckets that have too little at this moment."""


def take(
    buckets: dict[RateKind, Bucket],
    rates: dict[RateKind, int],
    wanted: dict[RateKind, float],
    now: float,
    patience: float,
) -> Taken:
    """Take what is wanted from all the buckets, or from none, and change `buckets` so.

    What is not there yet is promised, if it will be within `patience` seconds: the level goes below 0, and whoever comes
    later waits for longer. So calls go in the order in which they asked, whichever server they asked.
    """
    present = {kind: buckets[kind].at(now, rate) for kind, rate in rates.items()}
    waits = {kind: present[kind].wait(wanted[kind], rate, now) for kind, rate in rates.items()}
    short = {kind: present[kind].level for kind, wait in waits.items() if wait > 0}
    wait = max(waits.values(), default=0.0)
    buckets.update(present)
    if wait > patience:
        return Taken(wait, granted=False, short=short)
    buckets.update({kind: present[kind].less(wanted[kind]) for kind in rates})
    return Taken(wait, granted=True, short=short)
