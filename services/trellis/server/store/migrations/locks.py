"""How long a migration waits for what others hold, so that nobody waits long behind it, and what it says when that is over."""

import time
from dataclasses import dataclass

from trellis.errors import Reason, Unavailable
from trellis.server.store.migrations.holders import Holder

LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK = "40P01"
_LONGEST_PAUSES = 8


@dataclass(frozen=True, slots=True)
class LockPatience:
    """Seconds; a migration that waits for a lock holds up all who come after it for the same table."""

    once: float = 2.0
    """For one lock: so long calls may stand behind it."""
    pause: float = 2.0
    """Before it is tried again, for those to go on; each time twice as long, up to eight times this."""
    together: float = 600.0
    """For all tries of one step; then it is given up."""
    beside: float = 600.0
    """For a lock that holds up nobody, as of an index that is made beside writers."""


USUAL = LockPatience()


class LockHeldError(Unavailable):
    """Somebody holds what a migration needs; `str()` says who."""

    def __init__(self, what: str, holders: tuple[Holder, ...] = ()) -> None:
        pids = [holder.pid for holder in holders if holder.pid]
        ended = " or ".join(f"SELECT pg_terminate_backend({pid})" for pid in pids)
        advice = f" Wait for its end, or end it ({ended}), and migrate again." if pids else " Migrate again."
        super().__init__(Reason.DATABASE_BUSY, f"{what}{advice}", retry_after=10.0)
        self.what = what
        self.holders = holders


class Tries:
    """The tries of one step."""

    def __init__(self, patience: LockPatience) -> None:
        self._patience = patience
        self._begun = time.monotonic()
        self._count = 0

    @property
    def seconds(self) -> float:
        """Since the first."""
        return time.monotonic() - self._begun

    @property
    def left(self) -> float:
        """Until it is given up."""
        return max(0.0, self._patience.together - self.seconds)

    def pause(self) -> float | None:
        """How long to wait for the next one; None if there is none."""
        seconds = self._patience.pause * min(2**self._count, _LONGEST_PAUSES)
        self._count += 1
        return min(seconds, self.left) if self.left > 0 else None
