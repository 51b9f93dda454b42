from __future__ import annotations

import pytest

from trellis.engine.fairness import VirtualTokenCounters
from trellis.engine.queue import WaitingQueue
from trellis.engine.work import Work


def work(tenant: str, tokens: int = 10, weight: float = 1.0) -> Work:
    return Work([1] * tokens, tokens, 5, tenant, weight)


def test_an_answers_tokens_count_twice_and_all_is_divided_by_the_weight() -> None:
    counters = VirtualTokenCounters()
    counters.charge("a", 1.0, prompt=10, output=3)
    counters.charge("b", 4.0, prompt=10, output=3)
    assert (counters["a"], counters["b"], counters.served) == (16.0, 4.0, 20.0)


def test_who_comes_back_is_lifted_to_the_least_that_waits() -> None:
    counters = VirtualTokenCounters()
    counters.enter("busy")
    counters.enter("busier")
    counters.charge("busy", 1.0, prompt=100)
    counters.charge("busier", 1.0, prompt=120)
    counters.enter("idle")
    assert counters["idle"] == 100.0


def test_who_had_more_is_not_lowered() -> None:
    counters = VirtualTokenCounters()
    counters.charge("a", 1.0, prompt=100)
    counters.enter("b")
    counters.enter("a")
    assert (counters["a"], counters["b"]) == (100.0, 0.0)


def test_who_was_merely_short_of_requests_keeps_a_bounded_credit() -> None:
    counters = VirtualTokenCounters()
    counters.enter("busy")
    counters.charge("busy", 1.0, prompt=100)
    counters.enter("short", credit=30.0)
    assert counters["short"] == 70.0


def test_when_nobody_waits_the_last_one_who_did_is_the_measure() -> None:
    counters = VirtualTokenCounters()
    counters.enter("a")
    counters.charge("a", 1.0, prompt=100)
    counters.leave("a")
    counters.enter("new")
    assert counters["new"] == 100.0


def test_who_waits_already_is_not_lifted_again() -> None:
    counters = VirtualTokenCounters()
    counters.enter("a")
    counters.enter("b")
    counters.charge("b", 1.0, prompt=100)
    counters.enter("a")
    assert counters["a"] == 0.0


def test_who_is_parked_waits_too() -> None:
    counters = VirtualTokenCounters()
    counters.enter("waits")
    counters.charge("waits", 1.0, prompt=100)
    counters.park({"parked"}, credit=30.0)
    assert counters["parked"] == 70.0
    counters.enter("new")
    assert counters["new"] == 70.0, "the least of those who wait or are parked"
    counters.charge("parked", 1.0, prompt=200)
    for tenant in ("waits", "new"):
        counters.leave(tenant)
    counters.park(frozenset())
    counters.enter("late")
    assert counters["late"] == 270.0


def test_many_tenants_that_came_once_are_forgotten() -> None:
    counters = VirtualTokenCounters()
    for number in range(10_000):
        counters.enter(str(number))
        counters.charge(str(number), 1.0, prompt=1)
        counters.leave(str(number))
    assert len(counters) < 1000


def test_tenants_take_turns_and_one_tenants_requests_keep_their_order() -> None:
    queue: WaitingQueue[Work] = WaitingQueue(VirtualTokenCounters())
    flood = [work("flood") for _ in range(4)]
    light = [work("light") for _ in range(2)]
    for waiting in (*flood, *light):
        queue.add(waiting)
    assert queue.upcoming(9, {}) == [flood[0], light[0], flood[1], light[1], flood[2], flood[3]]


@pytest.mark.parametrize("weight", [2.0, 3.0])
def test_a_heavier_tenant_has_more_turns(weight: float) -> None:
    queue: WaitingQueue[Work] = WaitingQueue(VirtualTokenCounters())
    for _ in range(40):
        queue.add(work("heavy", weight=weight))
        queue.add(work("plain"))
    turns = [waiting.tenant for waiting in queue.upcoming(24, {})]
    assert turns.count("heavy") == pytest.approx(24 * weight / (weight + 1), abs=1)


def test_the_first_that_is_ready_goes_past_those_that_are_not() -> None:
    queue: WaitingQueue[Work] = WaitingQueue(VirtualTokenCounters())
    first, second, third = work("a"), work("a"), work("b")
    for waiting in (first, second, third):
        queue.add(waiting)
    pick = queue.pick(lambda waiting: waiting is third, lambda _: False, {})
    assert pick is not None
    assert (pick.work, pick.passed) == (third, (first, second))
    assert queue.pick(lambda waiting: waiting is third, lambda waiting: waiting is second, {}) is None
    assert queue.pick(lambda _: False, lambda _: False, {}) is None
    for waiting in (second, third, first):
        queue.remove(waiting)
    assert len(queue) == 0
    assert queue.upcoming(3, {}) == []
