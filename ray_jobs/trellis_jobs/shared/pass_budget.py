"""How many tokens a pass may have: fewer once one ran out of memory, and carefully more again."""

from typing import Final

PATIENCE: Final = 64
"""So many good passes that were at least half full come before the budget grows."""
_LONGEST_PATIENCE: Final = 64 * PATIENCE
_GROWTH: Final = 4
"""It grows by a part of itself: a quarter."""


class PassBudget:
    """Begins with the configured tokens, which it never exceeds.

    What ran out of memory may be others' doing, or that of lines which have gone, so the budget grows again. A growth that
    ends in another lack of memory was too much: each such one doubles the waiting for the next.
    """

    def __init__(self, tokens: int, patience: int = PATIENCE) -> None:
        self.tokens = tokens
        """What a pass may have now."""
        self._most = tokens
        self._patience = patience
        self._good = 0
        self._tried = False
        """Whether the budget has grown to what it is."""

    def fitted(self, tokens: int) -> bool:
        """A pass of so many tokens went well; whether the budget has grown."""
        if self.tokens >= self._most or 2 * tokens < self.tokens:
            return False
        self._good += 1
        if self._good < self._patience:
            return False
        self.tokens = min(self._most, self.tokens + max(1, self.tokens // _GROWTH))
        self._good = 0
        self._tried = True
        return True

    def ran_out(self, tokens: int) -> None:
        """A pass of so many tokens ran out of memory."""
        if self._tried:
            self._patience = min(_LONGEST_PATIENCE, 2 * self._patience)
        self.tokens = max(1, min(self.tokens, tokens) // 2)
        self._good = 0
        self._tried = False
