"""Those who wait are woken by news, at the price of one look for all of them."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from trellis.errors import TrellisError, Unavailable
from trellis.server.app.lookout import Lookout
from trellis.server.app.together import Together
from trellis.server.app.waiting import Pause


class Rows:
    """Numbers by key, and who asked for them."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    async def look(self, keys: Collection[str]) -> Mapping[str, int]:
        self.asked.append(list(keys))
        if self.error is not None:
            raise self.error
        return {key: self.values[key] for key in keys if key in self.values}


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def pause() -> Pause:
    return Pause(0.001)


@pytest.fixture
def lookout(rows: Rows, pause: Pause) -> Lookout[int]:
    return Lookout(rows.look, pause, rows)


def waiter(lookout: Lookout[int], key: str, beyond: int = 0, until: datetime | None = None) -> asyncio.Task[None]:
    return asyncio.create_task(lookout.news(key, lambda mark: mark is None or mark > beyond, until))


async def looks(rows: Rows, count: int) -> None:
    """Until so many more looks were had."""
    async with asyncio.timeout(20):
        end = len(rows.asked) + count
        while len(rows.asked) < end:
            await asyncio.sleep(0.001)


async def test_one_look_is_for_all_who_wait(rows: Rows, lookout: Lookout[int]) -> None:
    rows.values = {f"job-{number}": 0 for number in range(200)}
    waiting = [waiter(lookout, key) for key in [*rows.values, *rows.values]]
    await looks(rows, 3)
    assert all(sorted(asked) == sorted(rows.values) for asked in rows.asked)
    assert not any(task.done() for task in waiting)
    rows.values["job-7"] = 1
    await looks(rows, 2)
    assert [number for number, task in enumerate(waiting) if task.done()] == [7, 207]
    rows.values = {}  # all are gone
    await asyncio.wait_for(asyncio.gather(*waiting), 20)


async def test_many_rows_are_asked_for_in_pieces(rows: Rows, lookout: Lookout[int]) -> None:
    rows.values = {f"job-{number:04}": 1 for number in range(1201)}
    async with asyncio.timeout(20):
        await asyncio.gather(*(waiter(lookout, key) for key in rows.values))
    assert [len(asked) for asked in rows.asked] == [500, 500, 201]


async def test_nobody_looks_while_nobody_waits(rows: Rows, lookout: Lookout[int]) -> None:
    rows.values = {"job": 0}
    waiting = waiter(lookout, "job")
    await looks(rows, 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(lookout) == 0
    await asyncio.sleep(0.05)
    before = len(rows.asked)
    await asyncio.sleep(0.05)
    assert len(rows.asked) == before


async def test_who_waits_until_a_time_goes_then(rows: Rows, lookout: Lookout[int]) -> None:
    rows.values = {"job": 0}
    waiting = waiter(lookout, "job", until=rows.time + timedelta(seconds=5))
    await looks(rows, 3)
    assert not waiting.done()
    rows.time += timedelta(seconds=5)
    await asyncio.wait_for(waiting, 20)


async def test_a_bell_wakes_before_any_look(rows: Rows) -> None:
    lookout = Lookout(rows.look, Pause(3600), rows)
    one, other = waiter(lookout, "job-1"), waiter(lookout, "job-2")
    await asyncio.sleep(0)
    lookout.ring(["job-1", "tuning_jobs"])
    await asyncio.wait_for(one, 20)
    assert (rows.asked, other.done()) == ([], False)
    other.cancel()


async def test_everybody_hears_that_a_look_failed(rows: Rows, lookout: Lookout[int]) -> None:
    rows.error = Unavailable("DATABASE_BUSY", "The database is away.")
    waiting = [waiter(lookout, key) for key in ("job-1", "job-2")]
    for task in waiting:
        with pytest.raises(Unavailable, match="away"):
            await asyncio.wait_for(task, 20)
    rows.error = None
    await asyncio.wait_for(waiter(lookout, "gone"), 20)


async def test_what_is_asked_for_at_once_is_read_once() -> None:
    together, begun, go = Together(), list[str](), asyncio.Event()

    async def read(name: str) -> str:
        begun.append(name)
        await go.wait()
        if name == "bad":
            raise ValueError(name)
        return name

    asked = [asyncio.create_task(together.read(name, partial(read, name))) for name in ["a", "a", "b", "bad", "bad"]]
    await asyncio.sleep(0)
    asked[0].cancel()  # who began it goes; it goes on for the other one
    await asyncio.sleep(0)
    go.set()
    found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)
    assert begun == ["a", "b", "bad"]
    assert [type(one) for one in found] == [asyncio.CancelledError, str, str, ValueError, ValueError]
    assert await together.read("a", partial(read, "a")) == "a"
    assert begun == ["a", "b", "bad", "a"]


async def test_everybody_hears_that_the_server_stops(rows: Rows, lookout: Lookout[int], pause: Pause) -> None:
    rows.values = {"job-1": 0, "job-2": 0}
    waiting = [waiter(lookout, key) for key in rows.values]
    await looks(rows, 1)
    pause.stop()
    for task in waiting:
        with pytest.raises(TrellisError, match="is stopping"):
            await asyncio.wait_for(task, 20)
