"""What is asked for at the same time is answered together, by work that began after the question."""

import asyncio
from collections.abc import Sequence

import pytest

from trellis.server.app.batches import Batches


class Work:
    """Doubles what it is given, each batch when it is let go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.doors: list[asyncio.Event] = []
        self.is_open = True
        self.fails: Exception | None = None
        self.time = 0.0
        self.slept: list[float] = []

    async def __call__(self, asked: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(asked))
        door = asyncio.Event()
        self.doors.append(door)
        if not self.is_open:
            await door.wait()
        if self.fails is not None:
            raise self.fails
        return [ValueError(f"{number} is odd") if number % 2 else 2 * number for number in asked]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def seconds(self) -> float:
        return self.time


async def turns(count: int = 10) -> None:
    """Lets everybody do what they can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_asked_for_at_once_is_one_batch() -> None:
    work = Work()
    batches = Batches(work)
    assert await asyncio.gather(*(batches.ask(2 * n) for n in range(5))) == [0, 4, 8, 12, 16]
    assert work.batches == [[0, 2, 4, 6, 8]]
    assert await batches.ask(10) == 20
    assert work.batches[1:] == [[10]]


async def test_a_question_is_never_answered_by_work_that_had_begun() -> None:
    work = Work()
    work.is_open = False
    batches = Batches(work, seconds=work.seconds)
    first = asyncio.create_task(batches.ask(2))
    await turns()
    later = [asyncio.create_task(batches.ask(n)) for n in (4, 6)]
    await turns()
    assert work.batches == [[2]]
    work.is_open = True
    work.doors[0].set()
    assert await asyncio.gather(first, *later) == [4, 8, 12]
    assert work.batches == [[2], [4, 6]]


async def test_each_gets_its_own_error_and_all_that_of_the_work() -> None:
    work = Work()
    batches = Batches(work)
    found = await asyncio.gather(batches.ask(2), batches.ask(3), return_exceptions=True)
    assert found[0] == 4
    assert str(found[1]) == "3 is odd"
    work.fails = OSError("The database is gone.")
    found = await asyncio.gather(batches.ask(2), batches.ask(4), return_exceptions=True)
    assert [str(error) for error in found] == ["The database is gone."] * 2
    work.fails = None
    assert await batches.ask(2) == 4


async def test_what_a_caller_asked_for_is_done_though_it_went_away() -> None:
    work = Work()
    work.is_open = False
    batches = Batches(work)
    gone = asyncio.create_task(batches.ask(2))
    await turns()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    waiting = asyncio.create_task(batches.ask(4))
    await turns()
    waiting.cancel()
    work.is_open = True
    work.doors[0].set()
    await batches.drain()
    assert work.batches == [[2], [4]]


async def test_one_that_hangs_does_not_hold_the_others_up_for_long() -> None:
    work = Work()
    work.is_open = False
    batches = Batches(work, seconds=work.seconds)
    hangs = asyncio.create_task(batches.ask(2))
    await turns()
    work.time += 1.0
    work.is_open = True
    assert await batches.ask(4) == 8
    assert not hangs.done()
    work.doors[0].set()
    assert await hangs == 4


async def test_one_that_waits_behind_a_batch_that_hangs_is_not_forgotten() -> None:
    work = Work()
    work.is_open = False
    batches = Batches(work)
    hangs = asyncio.create_task(batches.ask(2))
    await turns()
    work.is_open = True
    async with asyncio.timeout(20):
        assert await batches.ask(4) == 8, "by the timer, for nobody asks again"
    work.doors[0].set()
    assert await hangs == 4


async def test_batches_rest_in_between_while_there_are_many_questions() -> None:
    work = Work()
    batches = Batches(work, rest=0.5, sleep=work.sleep, seconds=work.seconds)
    for n in (2, 4):
        await batches.ask(n)
    assert work.slept == [], "a lone caller waits for nobody"
    await asyncio.gather(batches.ask(2), batches.ask(4))
    work.time += 0.2
    await batches.ask(6)
    assert work.slept == [pytest.approx(0.3)]
    await batches.ask(8)
    assert len(work.slept) == 1


async def test_a_question_at_the_very_end_of_a_batch_begins_the_next_at_once() -> None:
    work = Work()
    work.is_open = False
    batches = Batches(work, seconds=work.seconds)
    first = asyncio.create_task(batches.ask(2))
    await turns()

    async def ask_as_it_ends() -> int | Exception:
        await work.doors[0].wait()  # is woken right after the work, which then has ended, and nobody has been told
        return await batches.ask(4)

    second = asyncio.create_task(ask_as_it_ends())
    await turns()
    work.is_open = True
    work.doors[0].set()
    await turns()
    assert second.done(), "it took the batch that had ended for one that goes on"
    assert (await first, await second) == (4, 8)


async def test_a_batch_that_is_given_up_fails_its_callers_and_holds_up_no_others() -> None:
    work = Work()
    work.is_open = False
    batches = Batches(work, seconds=work.seconds)
    first = asyncio.create_task(batches.ask(2))
    await turns()
    waiting = asyncio.create_task(batches.ask(4))
    await turns()
    (running,) = batches._running
    work.is_open = True
    running.cancel()
    await turns()
    with pytest.raises(RuntimeError, match="given up"):
        await first
    assert waiting.done(), "nobody asks again"
    assert await waiting == 8


async def test_a_batch_that_is_given_up_before_it_begins_is_begun_anew() -> None:
    work = Work()
    batches = Batches(work, seconds=work.seconds)
    asking = asyncio.create_task(batches.ask(2))
    await asyncio.sleep(0)  # until it has asked, and not until the batch has begun
    (running,) = batches._running
    running.cancel()
    await turns()
    assert asking.done()
    assert await asking == 4
