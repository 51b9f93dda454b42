from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from math import ceil
from statistics import fmean, median

import pytest
from hypothesis import given, settings, strategies as st
from tests.scheduler_rig import LIMITS, Rig

from trellis.engine.limits import EngineLimits
from trellis.engine.tiers import TierEvent
from trellis.engine.work import Work

CALLERS = 32
QUANTUM = EngineLimits().turn_steps
NEVER = 10**9
"""As a quantum: who has a slot keeps it to the end."""


@dataclass
class Loop:
    """Callers of whom each always has one request on its way; what came of it, in steps."""

    rig: Rig
    submit: Callable[[int], Work]
    waits: list[int] = field(default_factory=list)
    """Steps to first tokens."""
    parked: list[int] = field(default_factory=list)
    """Steps that answers were parked for, each time."""
    tokens: int = 0
    """Of answers."""

    def run(self, answers: int, callers: int = CALLERS) -> None:
        came: dict[Work, tuple[int, int]] = {}
        away: Counter[Work] = Counter()
        idle = list(range(callers))
        while len(self.rig.ended) < answers:
            came |= {self.submit(caller): (caller, self.rig.steps) for caller in idle}
            ended = len(self.rig.ended)
            for work, _ in self.rig.step():
                self.parked.append(away.pop(work, 0))
                self.tokens += work.answer_tokens > 0
                if work.answer_tokens == 1:
                    self.waits.append(self.rig.steps - came[work][1])
            away.update(work for work in self.rig.scheduler._running if work.is_parked)
            idle = [came[work][0] for work in self.rig.ended[ended:]]

    @property
    def copies(self) -> int:
        """Adapters that came into the bank."""
        return self.rig.events.count(TierEvent.COPIED)


@cache
def closed_loop(slots: int, *, own: bool, turn_steps: int = QUANTUM) -> Loop:
    """32 callers of mixed lengths, each with an adapter of its own or with a random one of 32 each time."""
    draw = random.Random(1)
    limits = EngineLimits(max_running=CALLERS, max_waiting=1000, tenant_room=1000, turn_steps=turn_steps)
    rig = Rig(limits, blocks=4000, rows=8 * slots, slots=slots)

    def submit(caller: int) -> Work:
        adapter = caller if own else draw.randrange(CALLERS)
        return rig.add("a", draw.randint(16, 128), draw.randint(16, 64), str(adapter))

    loop = Loop(rig, submit)
    loop.run(250)
    return loop


@pytest.mark.parametrize("own", [True, False])
def test_with_twice_as_many_adapters_as_slots_first_tokens_come_as_soon(own: bool) -> None:
    resident, shared = closed_loop(32, own=own), closed_loop(16, own=own)
    assert fmean(shared.waits) <= 1.25 * fmean(resident.waits)
    assert median(shared.waits) == median(resident.waits) == 1
    assert fmean(shared.waits) < fmean(closed_loop(16, own=own, turn_steps=NEVER).waits) / 4


@pytest.mark.parametrize("own", [True, False])
def test_even_with_eight_times_as_many_they_come_almost_as_soon(own: bool) -> None:
    assert fmean(closed_loop(4, own=own).waits) <= 2 * fmean(closed_loop(32, own=own).waits)


@pytest.mark.parametrize(("own", "share"), [(True, 0.97), (False, 0.9)])
def test_turns_cost_little_throughput_and_few_copies(own: bool, share: float) -> None:
    """Random adapters lose a little, for the full slots are not those that are kept; all get a slot for 16 tokens."""
    shared, kept = closed_loop(16, own=own), closed_loop(16, own=own, turn_steps=NEVER)
    assert shared.tokens / shared.rig.steps >= share * kept.tokens / kept.rig.steps
    assert shared.copies <= 1.2 * shared.tokens / QUANTUM
    assert max(shared.parked) <= 2 * QUANTUM


@pytest.mark.parametrize("weight", [1.0, 2.0, 4.0, 0.5])
@pytest.mark.parametrize("places", [32, 16])
def test_slots_are_shared_by_weight(weight: float, places: int) -> None:
    """Sixteen callers each, of two tenants, with adapters of their own, on eight slots; in places that do or don't do."""
    weights = {"a": 1.0, "b": weight}
    rig = Rig(replace(LIMITS, max_running=places, tenant_room=1000, turn_steps=8), blocks=4000, rows=64)
    draw = random.Random(2)

    def submit(caller: int) -> Work:
        tenant = "ab"[caller % 2]
        return rig.add(tenant, draw.randint(4, 30), draw.randint(10, 40), str(caller), weights[tenant])

    Loop(rig, submit).run(600)
    assert rig.tokens["b"] / rig.tokens["a"] == pytest.approx(weight, rel=0.1)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_nothing_is_parked_for_long(data: st.DataObject) -> None:
    """Whatever the mix of tenants, lengths and adapters; also where short answers keep coming beside long ones."""
    slots, loads, quantum = (data.draw(st.integers(*span)) for span in ((1, 6), (1, 3), (1, 8)))
    limits = replace(LIMITS, max_running=12, tenant_room=1000, turn_steps=quantum, loads_a_step=loads)
    rig = Rig(limits, blocks=4000, rows=8 * slots, slots=slots)
    kinds = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from("aabc"),
                st.integers(1, 30),
                st.integers(1, 60),
                st.integers(0, 12),
                st.sampled_from([1.0, 9.0]),
            ),
            min_size=12,
            max_size=16,
        )
    )
    fresh = data.draw(st.booleans())

    def submit(caller: int) -> Work:
        tenant, prompt, answer, adapter, weight = kinds[caller]
        name = f"{rig.steps}-{caller}" if fresh and answer < 5 else str(adapter)
        return rig.add(tenant + str(weight), prompt, answer, name, weight)

    loop = Loop(rig, submit)
    loop.run(100, len(kinds))
    most = 12 - slots
    round_ = max(quantum * ceil(max(most, 0) / slots), ceil(most / loads))
    assert max(loop.parked) <= 13 * round_ + quantum


def test_nothing_moves_while_nobody_waits_for_a_slot() -> None:
    rig = Rig(slots=4, rows=32)
    works = [rig.add(adapter=str(number % 4), answer=100) for number in range(8)]
    rig.until(lambda: rig.scheduler.running == 8)
    slots = [work.slot for work in works]
    rig.until(lambda: len(works[0].token_ids) > 90)
    assert [work.slot for work in works] == slots
    assert rig.events.count(TierEvent.COPIED) == 4
    rig.finish()
    assert rig.events.count(TierEvent.EVICTED) == 0


def test_a_first_token_comes_at_once_from_those_that_had_a_quarter_of_a_turn() -> None:
    rig = Rig(slots=1)
    long = rig.add(adapter="x", answer=200)
    rig.until(lambda: long.answer_tokens == 5)
    late = rig.add(adapter="y", answer=200)
    rig.step()  # fetches it
    assert rig.step() == [(late, 8)]
    assert (long.is_parked, long.slot, rig.scheduler.parked, rig.scheduler.running) == (True, None, 1, 2)
    assert rig.tiers.pins == 2


def test_a_turn_is_whole_for_those_who_are_parked() -> None:
    rig = Rig(slots=1)
    for name in "xy":
        rig.add(adapter=name, answer=100)
    rig.until(lambda: rig.scheduler.running == 2)
    runs = [rig.step()[0][0] for _ in range(100)]
    changes = [step for step, (before, after) in enumerate(pairwise(runs)) if before is not after]
    assert {after - before for before, after in pairwise(changes)} == {LIMITS.turn_steps}
    rig.finish()


def test_a_prompt_is_read_to_its_end_before_others_begin() -> None:
    rig = Rig(replace(LIMITS, step_tokens=16), slots=1)
    long = rig.add(adapter="x", prompt=150, answer=8)
    rig.until(lambda: long.computed >= 80)
    other = rig.add(adapter="y")
    rig.until(lambda: other.table is not None)
    assert long.answer_tokens == 1


def test_those_with_one_adapter_are_parked_together_and_take_a_late_one_along() -> None:
    rig = Rig(slots=1)
    first = [rig.add(adapter="x", answer=60) for _ in range(3)]
    rig.until(lambda: rig.scheduler.running == 3)
    rig.add(adapter="y", answer=60)
    rig.until(lambda: rig.scheduler.parked == 3)
    assert all(work.is_parked for work in first)
    late = rig.add(adapter="x", answer=60)
    rig.until(lambda: late.table is not None)
    assert [work.is_parked for work in first] == [False] * 3
    assert rig.tiers.pins == 5
    rig.finish()


def test_as_few_as_must_be_give_way() -> None:
    rig = Rig(replace(LIMITS, max_running=16), slots=8, rows=32)
    for name, rank in (("small", 8), ("large", 24)):
        rig.add(adapter=name, rank=rank, answer=100)
    rig.until(lambda: rig.scheduler.running == 2)
    rig.until(lambda: rig.steps > 40)
    beside = [rig.add(adapter="small", answer=100) for _ in range(2)]
    rig.until(lambda: beside[1].table is not None)
    rig.add(adapter="needs two", rank=16, answer=20)
    rig.until(lambda: rig.scheduler.parked > 0)
    assert [work.digest for work in rig.scheduler._running if work.is_parked] == ["large"]
    rig.finish()


def test_what_the_hosts_memory_dropped_keeps_its_slot() -> None:
    rig = Rig(slots=1)
    rig.tiers._host_bytes = 0
    long = rig.add(adapter="x", answer=60)
    rig.until(lambda: long.answer_tokens == 5)
    other = rig.add(adapter="y", answer=5)
    while long not in rig.ended:
        rig.step()
        assert not long.is_parked
        assert other.table is None
    rig.finish()


def test_no_more_are_copied_in_a_step_than_may_be() -> None:
    rig = Rig(replace(LIMITS, max_running=40, loads_a_step=3), slots=8, rows=64)
    for number in range(40):
        rig.add(adapter=str(number), answer=50)
    while len(rig.ended) < 40:
        before = rig.events.count(TierEvent.COPIED)
        rig.step()
        assert rig.events.count(TierEvent.COPIED) - before <= 3


def test_what_is_parked_can_be_taken_back() -> None:
    rig = Rig(slots=1)
    works = [rig.add(adapter=name, answer=60) for name in "xyz"]
    rig.until(lambda: rig.scheduler.parked == 2)
    for work in works:
        if work.is_parked:
            rig.scheduler.remove(work)
    assert (rig.scheduler.parked, rig.scheduler.running, rig.tiers.pins) == (0, 1, 1)
    copied = rig.events.count(TierEvent.COPIED)
    rig.finish()
    assert rig.events.count(TierEvent.COPIED) == copied
