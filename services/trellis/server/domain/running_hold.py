"""Whether what is held for a running job suffices, and what is to be done before it does not."""

import math
from dataclasses import dataclass
from typing import Final

_LEAST_STEP_SECONDS: Final = 60.0
_STEP_PART: Final = 0.1
"""Of its estimate a job's hold is extended by so much at a time."""
_CAUTION: Final = 1.2
"""So much more than it needs by its pace is held."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long before a hold is used up something is done, in seconds."""

    leave: float
    """For a process that is asked to leave: what it may take, and two looks."""
    fence: float
    """For one that is still there: two looks; then its attempt is ended."""


@dataclass(frozen=True, slots=True)
class RunningHold:
    """What is held for a job of one meter, in its units, as of one look."""

    held: int
    used: float
    """By its running attempt, with all that it may have used since it last reported."""
    pace: float
    """At most so much is used in a second."""
    estimate: int = 0
    """What the whole job was expected to take."""
    rest: float | None = None
    """What is still needed, by its pace so far or its estimate; None where nobody knows."""

    @property
    def remaining(self) -> float:
        """What is held and not used; negative when a look came too late."""
        return self.held - self.used


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done."""

    more: int = 0
    """To be held."""
    leave: bool = False
    """Whether the job is to give way, as no more can be held than it needs to leave."""
    end: bool = False
    """Whether its attempt is to be ended at once."""


def judged(one: RunningHold, left: int, patience: Patience) -> Verdict:
    """What is to be done, with so much left of the budget.

    A job that will end within what is held, as far as anybody can tell, is let be. Else the hold is extended while it
    still covers the time that leaving takes; when there is no more to hold, the job is asked to leave, and it is ended
    before it uses more than is held.
    """
    enough = one.pace * patience.leave
    if _suffices(one, one.remaining, enough):
        return Verdict()
    wanted = enough + max(one.estimate * _STEP_PART, one.pace * _LEAST_STEP_SECONDS)
    if one.rest is not None:
        wanted = min(wanted, one.rest * _CAUTION)
    more = max(0, min(math.ceil(wanted - one.remaining), left))
    after = one.remaining + more
    if _suffices(one, after, enough):
        return Verdict(more)
    return Verdict(more, leave=True, end=after <= one.pace * patience.fence)


def _suffices(one: RunningHold, remaining: float, enough: float) -> bool:
    return remaining >= enough or (one.rest is not None and one.rest <= remaining)
