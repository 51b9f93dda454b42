"""What is kept of turns is what ran says, and keeping it takes no longer the more adapters there are that nobody uses."""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import replace

from hypothesis import given, settings, strategies as st
from tests.scheduler_rig import LIMITS, Rig

from trellis.engine.turns import Turn
from trellis.engine.work import Work

ADAPTERS = [str(number) for number in range(8)]


class Watched(Rig):
    """Holds each step against what turns are by definition, for which it goes through everything there is."""

    def __init__(self, slots: int, places: int, quantum: int, loads: int) -> None:
        limits = replace(LIMITS, max_running=places, turn_steps=quantum, loads_a_step=loads)
        super().__init__(limits, slots=slots, rows=8 * slots)
        self.had: dict[str, int] = {}
        """Steps that were made with each adapter since it came into the bank."""
        self.since: dict[str, int] = {}
        """The step in which each one that is parked was."""
        self._copy = self.tiers.copy
        self.tiers.copy = self._count_copy  # type: ignore[method-assign]

    def step(self) -> list[tuple[Work, int]]:
        self.tiers.poll()
        self.scheduler.admit()
        seated, parked = self._by_adapter(is_parked=False), self._by_adapter(is_parked=True)
        for digest in seated:
            self.had[digest] += 1
        self.had = {d: steps for d, steps in self.had.items() if d in parked or self.tiers.is_resident(d)}
        self.since = {digest: self.since.get(digest, self.steps) for digest in parked}
        plan = self.scheduler.plan()
        self._compare(seated, parked)
        for work, tokens in plan:
            self._advance(work, tokens)
        self.steps += 1
        return plan

    def _compare(self, seated: dict[str, list[Work]], parked: dict[str, list[Work]]) -> None:
        turns = self.scheduler._turns
        assert {digest: list(turn.works) for digest, turn in turns._seated.items()} == seated
        assert {digest: list(turn.works) for digest, turn in turns._parked.items()} == parked
        assert {digest: turn.parked_at for digest, turn in turns._parked.items()} == self.since
        assert turns.parked == sum(map(len, parked.values()))
        assert [self.since[ref.digest] for ref in turns.wanted] == sorted(self.since.values())
        kept: dict[str, Turn[Work]] = turns._seated | turns._parked | turns._unused
        assert len(kept) == len(turns._seated) + len(turns._parked) + len(turns._unused)
        assert {digest: kept[digest].steps if digest in kept else 0 for digest in self.had} == self.had
        assert kept.keys() <= self.had.keys()

    def _by_adapter(self, *, is_parked: bool) -> dict[str, list[Work]]:
        found: dict[str, list[Work]] = defaultdict(list)
        for work in self.scheduler._running:
            if work.adapter is not None and work.is_parked == is_parked:
                found[work.digest].append(work)
        return dict(found)

    def _count_copy(self, digest: str, keep: Collection[str] = ()) -> bool:
        there = self._copy(digest, keep)
        if there:
            self.had[digest] = 0
        return there


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_what_is_kept_of_turns_is_what_ran(data: st.DataObject) -> None:
    """Whatever comes, ends, is taken back or forgotten, with more adapters than slots and with fewer."""
    rig = Watched(*(data.draw(st.integers(*span)) for span in ((1, 6), (2, 10), (1, 8), (1, 3))))
    works: list[Work] = []
    asked = st.tuples(st.sampled_from("abc"), st.integers(1, 30), st.integers(1, 20), st.sampled_from(["", *ADAPTERS]))
    for _ in range(data.draw(st.integers(1, 40))):
        act = data.draw(st.sampled_from(["ask", "ask", "ask", "take back", "forget", "step", "steps"]))
        if act == "ask":
            works.append(rig.add(*data.draw(asked)))
        elif act == "forget":
            rig.tiers.forget(data.draw(st.sampled_from(ADAPTERS)))
        elif act == "take back" and works:
            work = works.pop(data.draw(st.integers(0, len(works) - 1)))
            if work not in rig.ended:
                rig.scheduler.remove(work)
        for _ in range({"step": 1, "steps": data.draw(st.integers(2, 20))}.get(act, 0)):
            rig.step()
    rig.finish()


def test_a_step_does_nothing_for_adapters_that_nobody_uses() -> None:
    assert calls_of_a_step(unused=300) == calls_of_a_step(unused=3)


def calls_of_a_step(unused: int) -> int:
    rig = Rig(slots=310, rows=8 * 310)
    for number in range(unused):
        rig.add(adapter=f"unused {number}", answer=2)
    rig.finish()
    for number in range(5):
        rig.add(adapter=f"used {number}", answer=50)
    rig.until(lambda: rig.scheduler.running == 5)
    for _ in range(5):
        rig.step()
    assert len(rig.tiers.resident_digests) == unused + 5
    return calls(rig.step)


def calls(act: Callable[[], object]) -> int:
    """Of functions, Python's and C's."""
    count = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    gc.disable()  # Hypothesis has it call a function of its own
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count
