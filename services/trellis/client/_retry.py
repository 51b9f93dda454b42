"""How often and after what pause a call is tried again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retry:
    """Attempts in all, and pauses that double from the first to the longest; both in seconds, before jitter."""

    attempts: int = 5
    first_pause: float = 0.1
    longest_pause: float = 5.0
    reconnect_seconds: float = 300.0
    """How long a watch, a log, an upload or a download keeps trying to come back to a server that is gone."""

    def pause(self, attempt: int, retry_after: float | None, chance: float) -> float | None:
        """The pause after the attempt of this number, from one; None when it was the last. `chance` is in [0, 1)."""
        if attempt >= self.attempts:
            return None
        return max(retry_after or 0.0, self.backoff(attempt, chance))

    def backoff(self, attempt: int, chance: float) -> float:
        """The pause after so many failures in a row, between half and all of what doubling gives."""
        ceiling = min(self.longest_pause, self.first_pause * 2.0 ** min(attempt - 1, 30))
        return ceiling * (0.5 + chance / 2)
