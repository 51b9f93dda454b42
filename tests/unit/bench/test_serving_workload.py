"""What every system is asked, and how it is sent."""

import json
from collections.abc import Iterable

import pytest
from tests.bench.serving_rig.drive import Drive, Timing
from tests.bench.serving_rig.workload import EVEN, MIXED, Ask, Workload, draw

TOKENS = range(300, 400)


class Machine:
    """Answers every request that it has with a token a step; a step takes a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.left: dict[int, int] = {}
        self.most = 0
        self.cancelled: list[int] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def submit(self, number: int, ask: Ask) -> None:
        self.left[number] = ask.answer_tokens
        self.most = max(self.most, len(self.left))

    def step(self) -> Iterable[tuple[int, int, bool]]:
        self.now += 1.0
        for number in list(self.left):
            self.left[number] -= 1
            is_complete = not self.left[number]
            if is_complete:
                del self.left[number]
            yield number, 1, is_complete

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)
        del self.left[number]

    def run(self, workload: Workload) -> Timing:
        return Drive(self, workload, self.clock, self.sleep).run()


def asks(*tokens: int, tenant: str = "") -> tuple[Ask, ...]:
    return tuple(Ask((1, 2), count, tenant=tenant) for count in tokens)


def test_the_same_seed_draws_the_same_requests() -> None:
    assert draw("a", 9, MIXED, [0, 1], TOKENS) == draw("a", 9, MIXED, [0, 1], TOKENS)
    assert draw("a", 9, MIXED, [0, 1], TOKENS) != draw("b", 9, MIXED, [0, 1], TOKENS)


def test_lengths_are_what_was_asked_for() -> None:
    for ask in draw("a", 50, MIXED, [None], TOKENS).asks:
        assert MIXED.prompt[0] <= len(ask.prompt_ids) <= MIXED.prompt[1]
        assert MIXED.answer[0] <= ask.answer_tokens <= MIXED.answer[1]
        assert set(ask.prompt_ids) <= set(TOKENS)
    assert {(len(ask.prompt_ids), ask.answer_tokens) for ask in draw("a", 5, EVEN, [None], TOKENS).asks} == {(64, 64)}


@pytest.mark.parametrize(("count", "adapters"), [(32, 16), (10, 4), (5, 64)])
def test_adapters_are_dealt_out_like_cards(count: int, adapters: int) -> None:
    dealt = [ask.adapter for ask in draw("a", count, EVEN, range(adapters), TOKENS).asks]
    shares = [dealt.count(adapter) for adapter in range(adapters)]
    assert max(shares) - min(shares) <= 1
    assert sum(shares) == count


def test_few_requests_of_many_adapters_are_not_always_the_first_ones() -> None:
    called = {ask.adapter for seed in range(20) for ask in draw(f"{seed}", 4, EVEN, range(64), TOKENS).asks}
    assert len(called) > 32


def test_a_workload_goes_through_a_pipe() -> None:
    workload = Workload(asks(2, 3, tenant="a"), 2, rooms=(("a", 1),), until="a").arriving(2.0, "seed")
    assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload


def test_a_timing_goes_through_a_pipe() -> None:
    timing = Machine().run(Workload(asks(2, 3), 2))
    assert Timing.from_json(json.loads(json.dumps(timing.to_json()))) == timing


def test_no_more_are_sent_than_may_be_on_their_way() -> None:
    machine = Machine()
    timing = machine.run(Workload(asks(3, 1, 2, 2), 2))
    assert machine.most == 2
    assert timing.sent == [0.0, 0.0, 1.0, 3.0]
    assert timing.ended == [3.0, 1.0, 3.0, 5.0]
    assert timing.waits == [1.0, 1.0, 1.0, 1.0]
    assert (timing.tokens, timing.seconds, timing.rate) == (8, 5.0, 1.6)


def test_requests_come_at_their_time_and_wait_from_then_on() -> None:
    workload = Workload(asks(3, 1), 2, arrivals=(0.0, 1.5))
    timing = Machine().run(workload)
    assert timing.sent == [0.0, 1.5]
    assert timing.first == [1.0, 3.0]
    assert timing.waits == [1.0, 1.5]  # that it was sent at 2.0, after a step, is part of the wait


def test_it_sleeps_while_nothing_is_to_be_done() -> None:
    timing = Machine().run(Workload(asks(1, 1), 2, arrivals=(0.0, 10.0)))
    assert timing.ended == [1.0, 11.0]


def test_arrivals_come_at_the_rate() -> None:
    workload = draw("a", 400, EVEN, [None], TOKENS, at_once=1).arriving(4.0, "a")
    assert workload.at_once == 400
    assert sorted(workload.arrivals) == list(workload.arrivals)
    assert workload.arrivals[-1] == pytest.approx(100, rel=0.2)


def test_each_tenant_has_a_room_and_the_run_ends_with_one_of_them() -> None:
    machine = Machine()
    flood, light = asks(*[2] * 20, tenant="flood"), asks(2, 2, tenant="light")
    timing = machine.run(Workload(flood + light, 22, rooms=(("flood", 3), ("light", 1)), until="light"))
    assert machine.most == 4
    assert timing.seconds == 4.0
    assert timing.sent[20:] == [0.0, 2.0]
    assert sum(sent >= 0 for sent in timing.sent[:20]) == 6
    assert not machine.left
