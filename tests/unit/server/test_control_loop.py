"""A loop goes on whatever happens, and work on many rows does not stop at a bad one."""

import asyncio
import random

import pytest

from trellis.server.control.each import for_each
from trellis.server.control.loop import ControlLoop


class Scripted:
    """Answers or raises what it was told to, then wants the loop stopped."""

    name = "scripted"

    def __init__(self, *rounds: bool | Exception) -> None:
        self.rounds = list(rounds)
        self.loop: ControlLoop | None = None

    async def once(self) -> bool:
        answer = self.rounds.pop(0)
        if not self.rounds:
            assert self.loop is not None
            self.loop.stop()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def run(*rounds: bool | Exception, interval: float) -> Scripted:
    step = Scripted(*rounds)
    step.loop = ControlLoop(step, interval, random.Random(0))
    async with asyncio.timeout(20):
        await step.loop.run()
    return step


async def test_a_loop_goes_on_after_an_error() -> None:
    assert (await run(ValueError("once"), False, ValueError("twice"), False, interval=0.001)).rounds == []


async def test_a_step_that_has_more_to_do_is_not_kept_waiting() -> None:
    assert (await run(True, True, True, False, interval=3600)).rounds == []


async def test_a_stopped_loop_does_not_wait_out_its_pause() -> None:
    step = Scripted(False, False)
    step.loop = ControlLoop(step, 3600)
    running = asyncio.create_task(step.loop.run())
    while len(step.rounds) == 2:
        await asyncio.sleep(0)
    step.loop.stop()
    async with asyncio.timeout(20):
        await running
    assert len(step.rounds) == 1


async def work(bad: set[int], done: list[int]) -> None:
    async def one(number: int) -> None:
        if number in bad:
            raise ValueError(number)
        done.append(number)

    await for_each(range(8), one)


async def test_a_bad_item_keeps_no_other_waiting() -> None:
    done: list[int] = []
    with pytest.raises(ValueError, match="3"):
        await work({3}, done)
    assert done == [0, 1, 2, 4, 5, 6, 7]


async def test_all_errors_are_raised_together() -> None:
    done: list[int] = []
    with pytest.raises(ExceptionGroup) as caught:
        await work({0, 2, 3}, done)
    assert [str(error) for error in caught.value.exceptions] == ["0", "2", "3"]
    assert done == [1, 4, 5, 6, 7]


async def test_three_failures_in_a_row_are_everybody_s_fault() -> None:
    done: list[int] = []
    with pytest.raises(ExceptionGroup):
        await work({2, 3, 4}, done)
    assert done == [0, 1]


class Counting:
    """Counts its rounds, and changes something in each."""

    name = "counting"

    def __init__(self) -> None:
        self.rounds = 0
        self.loop = ControlLoop(self, 3600, wakes_on=["reports"])

    async def once(self) -> bool:
        self.rounds += 1
        self.loop.hear(frozenset({"reports"}))
        return False

    async def until(self, rounds: int) -> None:
        async with asyncio.timeout(20):
            while self.rounds < rounds:
                await asyncio.sleep(0.001)


async def test_what_concerns_it_wakes_a_loop_and_its_own_changes_do_not() -> None:
    step = Counting()
    running = asyncio.create_task(step.loop.run())
    await step.until(1)
    step.loop.hear(frozenset({"exports"}))
    await asyncio.sleep(0.2)
    assert step.rounds == 1
    step.loop.hear(frozenset({"reports", "tenants"}))
    await step.until(2)
    step.loop.stop()
    async with asyncio.timeout(20):
        await running
    assert step.rounds == 2


async def test_at_its_end_a_loop_lets_go_of_what_it_holds() -> None:
    step, ended = Scripted(False), asyncio.Event()

    async def let_go() -> None:
        ended.set()

    step.loop = ControlLoop(step, 3600, at_end=let_go)
    async with asyncio.timeout(20):
        await step.loop.run()
    assert ended.is_set()
