"""Whose adapter has a slot of the bank, where answers with more adapters run at once than it holds."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from trellis.engine.dues import Dues
from trellis.engine.fairness import VirtualTokenCounters
from trellis.engine.limits import EngineLimits
from trellis.engine.request import AdapterRef
from trellis.engine.work import Work

W = TypeVar("W", bound=Work)
_EARLY: Final = 4
"""What is urgent may end a turn after one of so many parts of it."""
_TRIES: Final = 8
"""Parked adapters that are looked at in a step and get no slot: with hundreds of them it would take too long."""
_PATIENCE: Final = 4
"""After so many rounds of turns, what is parked is as urgent as a first token."""


class Adapters(Protocol):
    """What is asked about adapters, and told of those in use; the tiers answer."""

    on_evict: Callable[[str], None]
    """Called with an adapter that is no longer in the bank."""

    def is_resident(self, digest: str) -> bool:
        """Whether it is in the bank."""
        ...

    def is_at_hand(self, digest: str) -> bool:
        """Whether it is in the host's memory, one copy away from the bank."""
        ...

    def would_fit(self, digest: str, without: Collection[str], keep: Collection[str]) -> bool:
        """Whether there is room for it without these, and without those that nobody uses but the ones to keep."""
        ...

    def copy(self, digest: str, keep: Collection[str]) -> bool:
        """Into the bank; whether there was room."""
        ...

    def pin(self, digest: str) -> int:
        """Its slot in the bank, which it keeps until `unpin` or `park`."""
        ...

    def unpin(self, digest: str) -> None:
        """One user less."""
        ...

    def park(self, digest: str) -> None:
        """Its users do without it until `resume`."""
        ...

    def resume(self, digest: str) -> int:
        """Its slot, perhaps another one, for those who were parked."""
        ...

    def stock(self, wanted: list[AdapterRef], copies: int) -> int:
        """Bring adapters closer, the first one first; how many came into the bank."""
        ...


@dataclass(slots=True, eq=False)
class Turn(Generic[W]):
    """An adapter, and the answers that run with it: they share its slot, and are parked together."""

    works: dict[W, None] = field(default_factory=dict)
    steps: int = 0
    """That it was used in since it got its slot."""
    parked_at: int = 0
    """The step in which it lost its slot, while its answers wait for it."""

    @property
    def is_reading(self) -> bool:
        """Whether one of them has not said its first token."""
        return any(work.answer_tokens == 0 for work in self.works)


@dataclass(frozen=True, slots=True)
class Claim(Generic[W]):
    """An adapter that should have a slot: for a first token, or for answers that are parked."""

    works: tuple[W, ...]
    urgency: float = 1.0
    """In fairness windows: 1 for first tokens; it grows for those parked, until it is their turn however little is due
    to their tenants."""

    @property
    def digest(self) -> str:
        """The adapter's."""
        return self.works[0].digest

    @property
    def is_urgent(self) -> bool:
        """Whether it may end turns early, and nobody goes past it."""
        return self.urgency >= 1.0


class Turns(Generic[W]):
    """Slots are shared in time: an adapter that had its turn gives way to one that others wait for.

    Answers without a slot are parked: they keep their place, their blocks and all that they have computed. Nothing
    moves while nobody waits for a slot. First tokens come first and may end a turn early; then come those who are
    parked, by what their tenants have had and by how long they have been. An adapter that was dropped from the host's
    memory keeps its slot, for it could not come back at once.

    With P adapters parked beside S in use, a round of turns is `max(turn_steps * ceil(P / S), P / loads_a_step)` steps.
    Nothing is parked for more than a few rounds: where first tokens keep coming it is as urgent as these after 4, and
    after 12 it comes before them however much more than others its tenant has had.
    """

    def __init__(self, limits: EngineLimits, adapters: Adapters, counters: VirtualTokenCounters) -> None:
        self._limits = limits
        self._adapters = adapters
        self._counters = counters
        self._seated: dict[str, Turn[W]] = {}
        self._parked: dict[str, Turn[W]] = {}  # the one that waits longest first
        self._unused: dict[str, Turn[W]] = {}  # of adapters that are still in the bank
        self._step = 0
        adapters.on_evict = self._forget

    @property
    def parked(self) -> int:
        """Answers that wait for their adapter's slot."""
        return sum(len(turn.works) for turn in tuple(self._parked.values()))  # other threads ask, too

    @property
    def wanted(self) -> list[AdapterRef]:
        """The adapters of those parked, the one that waits longest first."""
        firsts = (next(iter(turn.works)) for turn in self._parked.values())
        return [work.adapter for work in firsts if work.adapter is not None]

    def join(self, work: W) -> None:
        """It begins to run, with an adapter that is in the bank."""
        if work.adapter is None:
            return
        assert work.digest not in self._parked, "who begins takes those along that are parked"
        turn = self._seated.get(work.digest)
        if turn is None:
            turn = self._seated[work.digest] = self._unused.pop(work.digest, Turn())
        turn.works[work] = None
        work.slot = self._adapters.pin(work.digest)

    def leave(self, work: W) -> None:
        """It runs no longer. Its adapter's turn goes on: whoever begins with it next has what is left of it."""
        if work.adapter is None:
            return
        turn = self._seated.get(work.digest) or self._parked[work.digest]
        del turn.works[work]
        if not turn.works and self._parked.pop(work.digest, None) is None:
            self._unused[work.digest] = self._seated.pop(work.digest)
        work.slot = None
        self._adapters.unpin(work.digest)

    def tick(self) -> None:
        """A step is made."""
        self._step += 1
        for turn in self._seated.values():
            turn.steps += 1

    def share(self, firsts: Iterable[Claim[W]]) -> int:
        """Give slots to those that should have one now; how many adapters were copied."""
        claims = [*firsts, *self._claims()]
        copied = 0 if all(self._adapters.is_resident(claim.digest) for claim in claims) else self._grant(claims)
        for digest in [digest for digest in self._parked if self._adapters.is_resident(digest)]:
            self._resume(digest)
        tenants = {work.tenant for turn in self._parked.values() for work in turn.works}
        self._counters.park(tenants, self._limits.fairness_window)
        return copied

    def _grant(self, claims: list[Claim[W]]) -> int:
        dues = self._dues(claims)
        sooner: set[str] = set()  # is not evicted for what comes after it
        copied = refused = 0
        claims.sort(key=lambda claim: self._rank(claim, dues))
        while claims and copied < self._limits.loads_a_step:
            claim = claims.pop(0)
            if not self._adapters.is_resident(claim.digest):
                if not self._adapters.is_at_hand(claim.digest) or (refused == _TRIES and not claim.is_urgent):
                    continue  # the former was in the bank alone, until one before it took its place
                if not self._make_room(claim, dues, sooner):
                    if claim.is_urgent:
                        break  # what becomes free is for it
                    refused += 1
                    continue
                self._seat(claim, dues, sooner)
                copied += 1
                claims.sort(key=lambda claim: self._rank(claim, dues))
            sooner.add(claim.digest)
        return copied

    def _seat(self, claim: Claim[W], dues: Dues, sooner: Collection[str]) -> None:
        self._adapters.copy(claim.digest, sooner)
        if claim.digest in self._parked:
            self._parked[claim.digest].steps = 0
        dues.pledge(claim.works, self._limits.turn_steps)

    def _make_room(self, claim: Claim[W], dues: Dues, sooner: Collection[str]) -> bool:
        """Park as few as must be; whether there is room then."""
        victims: list[str] = []
        giving_way = iter(self._giving_way(claim, dues, sooner))
        while not self._adapters.would_fit(claim.digest, victims, sooner):
            victim = next(giving_way, None)
            if victim is None:
                return False
            victims.append(victim)
        for victim in victims[:-1]:  # the last one may be so large that those before it can stay
            others = [other for other in victims if other != victim]
            if self._adapters.would_fit(claim.digest, others, sooner):
                victims = others
        for victim in victims:
            self._park(victim)
        return True

    def _giving_way(self, claim: Claim[W], dues: Dues, sooner: Collection[str]) -> list[str]:
        """Adapters that can: those first whose tenants have had most, then those that fewest answers use."""
        found = [
            (turn.is_reading, -dues.lead(turn.works), len(turn.works), -turn.steps, digest)
            for digest, turn in self._seated.items()
            if digest not in sooner and self._gives_way(digest, turn, claim, dues)
        ]
        return [digest for *_, digest in sorted(found)]

    def _gives_way(self, digest: str, turn: Turn[W], claim: Claim[W], dues: Dues) -> bool:
        if not self._adapters.is_at_hand(digest):
            return False
        whole = self._limits.turn_steps
        is_due = turn.steps >= whole
        if claim.is_urgent:
            is_due = is_due or (turn.steps >= whole // _EARLY and not turn.is_reading)
        return is_due and self._rank(claim, dues) <= dues.lead(turn.works)

    def _rank(self, claim: Claim[W], dues: Dues) -> float:
        """Least for the one that should have a slot first."""
        return dues.lead(claim.works) - claim.urgency * self._limits.fairness_window

    def _park(self, digest: str) -> None:
        turn = self._parked[digest] = self._seated.pop(digest)
        turn.parked_at = self._step
        for work in turn.works:
            work.slot = None
        self._adapters.park(digest)

    def _resume(self, digest: str) -> None:
        turn = self._seated[digest] = self._parked.pop(digest)
        slot = self._adapters.resume(digest)
        for work in turn.works:
            work.slot = slot

    def _forget(self, digest: str) -> None:
        """It has left the bank: whoever begins with it anew has a whole turn."""
        self._unused.pop(digest, None)

    def _claims(self) -> list[Claim[W]]:
        """Of those that are parked."""
        parked = len(self._parked)
        round_ = max(
            max(self._limits.turn_steps, 1) * math.ceil(parked / max(len(self._seated), 1)),
            math.ceil(parked / self._limits.loads_a_step),
        )
        return [
            Claim(tuple(turn.works), (self._step - turn.parked_at) / (_PATIENCE * round_))
            for turn in self._parked.values()
        ]

    def _dues(self, claims: list[Claim[W]]) -> Dues:
        dues = Dues(self._counters, self._limits.fairness_window)
        for turn in self._seated.values():
            dues.pledge(turn.works, max(self._limits.turn_steps - turn.steps, 0))
        claiming = [work for claim in claims for work in claim.works]
        dues.compare([*claiming, *(work for turn in self._seated.values() for work in turn.works)])
        return dues
