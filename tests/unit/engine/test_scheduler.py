from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st
from tests.scheduler_rig import LIMITS, Rig

from trellis.engine.fairness import cost
from trellis.engine.work import Work
from trellis.lora.host import HostAdapter


def test_answers_go_on_beside_a_long_prompt() -> None:
    rig = Rig()
    short = rig.add("a", prompt=4, answer=20)
    rig.step()
    long = rig.add("b", prompt=200, answer=1)
    for _ in range(3):
        assert rig.step() == [(short, 1), (long, 63)]
    assert rig.step() == [(short, 1), (long, 11)]
    assert rig.ended == [long]


def test_a_long_prompt_does_not_hold_up_another_tenants_short_one() -> None:
    rig = Rig()
    rig.add("long", prompt=600, answer=1)
    rig.step()
    short = rig.add("short", prompt=30, answer=4)
    rig.step()
    assert short.pending == 1


def test_what_the_short_prompt_leaves_the_long_one_takes() -> None:
    rig = Rig()
    long = rig.add("long", prompt=600, answer=1)
    short = rig.add("short", prompt=10, answer=4)
    assert dict(rig.step()) == {long: 54, short: 10}


def test_prompts_begin_however_many_answers_run() -> None:
    rig = Rig(replace(LIMITS, step_tokens=4))
    for _ in range(7):
        rig.add(prompt=2, answer=100)
    rig.until(lambda: len(rig.step()) == 7)
    late = rig.add(prompt=20, answer=1)
    assert (late, 16) in rig.step()


def test_no_more_run_than_may_and_each_has_blocks_for_all_it_may_take() -> None:
    rig = Rig(blocks=20)
    works = [rig.add(prompt=9, answer=12) for _ in range(30)]
    while len(rig.ended) < 30:
        rig.step()
        assert rig.scheduler.running <= 4
        assert rig.blocks.used == rig.scheduler.running * 5
    assert rig.ended == works
    rig.finish()


def test_one_that_needs_much_of_the_cache_is_not_starved_by_small_ones() -> None:
    rig = Rig(blocks=20)
    for _ in range(4):
        rig.add("small", prompt=9, answer=12)
    rig.step()
    large = rig.add("large", prompt=40, answer=40)
    for _ in range(40):
        rig.add("small", prompt=9, answer=12)
        rig.step()
    assert large.table is not None
    assert large.computed >= 40


def test_a_prompt_that_is_shared_is_computed_once() -> None:
    rig = Rig()
    leader = rig.add(prompt=17, answer=6)
    for _ in range(3):
        sibling = rig.add(prompt=17, answer=6)
        sibling.token_ids = list(leader.token_ids)
        sibling.leader = leader
    assert rig.step() == [(leader, 17)]
    assert [tokens for _, tokens in rig.step()] == [1, 1, 1, 1]
    assert rig.blocks.used == 6 + 3 * 2
    rig.finish()


@pytest.mark.parametrize(("flood", "light"), [(1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (1.0, 4.0)])
def test_under_a_flood_each_tenant_gets_its_weight(flood: float, light: float) -> None:
    check_shares({"flood": (40, flood), "light": (4, light)}, prompt=20, answer=20)


@settings(max_examples=15, deadline=None)
@given(
    tenants=st.lists(st.tuples(st.integers(9, 40), st.sampled_from([0.5, 1.0, 1.0, 2.0, 3.0])), min_size=2, max_size=4),
    prompt=st.integers(1, 60),
    answer=st.integers(1, 40),
)
def test_shares_follow_the_weights(tenants: list[tuple[int, float]], prompt: int, answer: int) -> None:
    check_shares({str(number): tenant for number, tenant in enumerate(tenants)}, prompt, answer)


def check_shares(tenants: dict[str, tuple[int, float]], prompt: int, answer: int) -> None:
    """With so many requests of each always waiting, what each was served is within a tenth of its weight's share."""
    rig = Rig()
    enough = 150 * cost(1.0, prompt=prompt, output=answer)
    while sum(rig.tokens.values()) < enough:
        for tenant, (waiting, weight) in tenants.items():
            for _ in range(waiting - rig.scheduler._queue.of(tenant)):
                rig.add(tenant, prompt, answer, weight=weight)
        rig.step()
    total, weights = sum(rig.tokens.values()), sum(weight for _, weight in tenants.values())
    for tenant, (_, weight) in tenants.items():
        assert rig.tokens[tenant] / total == pytest.approx(weight / weights, rel=0.1)


def test_a_tenant_alone_may_use_everything_and_gives_way_when_another_comes() -> None:
    rig = Rig()
    for _ in range(60):
        rig.add("flood", answer=20)
    for _ in range(10):
        rig.step()
    assert {work.tenant for work in rig.scheduler._running} == {"flood"}
    assert rig.scheduler.running == 8
    late = rig.add("light", answer=20)
    rig.until(lambda: late.table is not None, most=22)  # with the next place that is free


def test_who_was_away_has_saved_up_nothing() -> None:
    rig = Rig()
    rig.add("light", answer=4)
    for _ in range(100):
        rig.add("flood", answer=20)
    rig.until(lambda: len(rig.ended) >= 40)
    before = Counter(work.tenant for work in rig.ended)
    for _ in range(100):
        rig.add("light", answer=20)
    rig.until(lambda: len(rig.ended) >= 80)
    after = Counter(work.tenant for work in rig.ended) - before
    assert after["flood"] >= 16


def test_a_flood_never_fills_the_queue() -> None:
    rig = Rig(replace(LIMITS, max_running=2, max_waiting=38, tenant_room=4))
    while rig.scheduler.has_room("flood", 1):
        rig.add("flood")
    assert rig.scheduler.waiting == 32
    assert rig.scheduler.has_room("light", 1)
    while rig.scheduler.has_room("light", 1):
        rig.add("light")
    assert rig.scheduler.has_room("third", 1)
    assert not rig.scheduler.has_room("third", 8)


def test_a_queue_of_one_place_is_everybodys() -> None:
    rig = Rig(replace(LIMITS, max_running=1, max_waiting=1))
    for _ in range(2):
        assert rig.scheduler.has_room("a", 1)
        rig.add("a")
    assert not rig.scheduler.has_room("b", 1)


def test_requests_run_with_their_adapters_pinned() -> None:
    rig = Rig(slots=2)
    works = [rig.add(adapter=name) for name in ("x", "y", "x")]
    rig.until(lambda: rig.scheduler.running == 3)
    assert rig.tiers.pins == 3
    assert works[0].slot == works[2].slot != works[1].slot
    rig.finish()
    assert {work.slot for work in works} == {None}


def test_adapters_are_fetched_in_the_order_in_which_they_will_be_needed() -> None:
    rig = Rig(replace(LIMITS, max_running=1, prefetched=5), slots=2)
    fetched: list[str] = []
    load = rig.tiers._load

    def recorded(digest: str, key: str) -> HostAdapter:
        fetched.append(digest)
        return load(digest, key)

    rig.tiers._load = recorded
    for number in range(3):
        rig.add("a", adapter=f"a{number}")
    for number in range(3):
        rig.add("b", adapter=f"b{number}")
    rig.step()
    assert fetched == ["a0", "b0", "a1", "b1", "a2"]
    rig.step()
    assert set(rig.tiers.resident_digests) == {"a0", "b0"}, "of the two that come next, one runs"
    rig.finish()
    assert fetched[5] == "b2"


def test_who_waits_for_an_adapter_holds_up_nobody() -> None:
    rig = Rig(slots=1)
    rig.add(adapter="x", answer=50)
    rig.until(lambda: rig.scheduler.running == 1)
    waits = rig.add(adapter="y", answer=5)
    goes = rig.add(answer=5)
    rig.step()
    assert (waits.table, goes.pending) == (None, 1)
    rig.finish()
    assert rig.ended[0] is goes


def test_resident_adapters_go_first_but_none_is_starved() -> None:
    """One slot, and a tenant that never runs out of requests for the adapter that has it."""
    rig = Rig(slots=1)
    for _ in range(4):
        rig.add("busy", adapter="x", answer=10)
    rig.step()
    starved = rig.add("other", adapter="y", answer=10)
    steps = 0
    while starved not in rig.ended:
        rig.add("busy", adapter="x", answer=10)
        rig.step()
        steps += 1
        assert steps < 100
    passed = sum(work.tenant == "busy" for work in rig.ended)
    assert passed > 8, "within the window those go first that need no load"
    served = sum(cost(1.0, prompt=8, output=10) for work in rig.ended)
    assert served < LIMITS.fairness_window + 16 * cost(1.0, prompt=8, output=10)


@pytest.mark.parametrize("adapters", [9, 16, 40])
def test_more_adapters_than_slots_all_have_their_turn(adapters: int) -> None:
    rig = Rig(slots=8, rows=64)
    works = [rig.add(adapter=f"{number % adapters}", answer=6) for number in range(4 * adapters)]
    rig.finish()
    assert set(rig.ended) == set(works)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_comes_and_goes_nothing_leaks(data: st.DataObject) -> None:
    rig = Rig(replace(LIMITS, max_running=4, turn_steps=3), blocks=32, rows=24, slots=2)
    live: list[Work] = []
    for _ in range(data.draw(st.integers(5, 40))):
        match data.draw(st.sampled_from(["add", "add", "step", "step", "cancel"])):
            case "add":
                name = data.draw(st.sampled_from(["", "x", "y", "z"]))
                tenant = data.draw(st.sampled_from("abc"))
                live.append(rig.add(tenant, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20)), name))
            case "step":
                rig.step()
            case "cancel" if live:
                work = live.pop(data.draw(st.integers(0, len(live) - 1)))
                if work not in rig.ended:
                    rig.scheduler.remove(work)
        live = [work for work in live if work not in rig.ended]
        assert rig.blocks.used + rig.blocks.cached + rig.blocks.free == rig.blocks.count
    rig.finish()
    assert rig.scheduler.tokens_left == 0
