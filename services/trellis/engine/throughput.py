"""How fast an engine has been of late."""

from collections import deque
from typing import Final

_STEPS: Final = 64
_LEAST_SECONDS: Final = 0.1
_MOST_SECONDS: Final = 30.0
_UNKNOWN_SECONDS: Final = 1.0


class Throughput:
    """The tokens a second of the last steps; time between steps, when there was nothing to do, does not count."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, float]] = deque(maxlen=_STEPS)

    def add(self, tokens: int, seconds: float) -> None:
        """Count a step."""
        self._steps.append((tokens, seconds))

    @property
    def tokens_per_second(self) -> float | None:
        """None before the first step that took time."""
        seconds = sum(seconds for _, seconds in self._steps)
        return sum(tokens for tokens, _ in self._steps) / seconds if seconds > 0 else None

    def retry_seconds(self, tokens: int) -> float:
        """When to come again to a queue of so many tokens; from a tenth of a second to half a minute."""
        rate = self.tokens_per_second
        return min(max(tokens / rate, _LEAST_SECONDS), _MOST_SECONDS) if rate else _UNKNOWN_SECONDS
