"""What was foretold when a job began to wait is held against when it started, whichever server admits it or writes the board."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from tests.contract.control.platform import Platform, Server
from tests.contract.control.test_rounds import ESTIMATE
from tests.contract.store import samples

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.board import Foretold
from trellis.server.domain.tuning_job import StartInterval

NAME = "trellis_job_start_error_seconds"


def counts() -> dict[str, float]:
    """How many started before, within and after."""
    found = {one: REGISTRY.get_sample_value(f"{NAME}_count", {"against": one}) for one in ("before", "within", "after")}
    return {one: number or 0.0 for one, number in found.items()}


def grown(before: Mapping[str, float]) -> dict[str, float]:
    return {one: number - before[one] for one, number in counts().items() if number != before[one]}


async def foretold(units: UnitOfWorkFactory) -> Mapping[str, Foretold]:
    async with units(write=False) as unit:
        return await unit.board.foretold()


async def third_waits(platform: Platform) -> tuple[Server, Foretold]:
    """Two jobs hold all capacity; what is said of the third."""
    await platform.add_jobs(*(samples.alone(number, estimate=ESTIMATE) for number in (1, 2, 3)))
    server = platform.server()
    await server.admit.once()
    await server.board.once()
    told = await foretold(platform.units)
    assert [*told] == ["uid-acme-3"]
    return server, told["uid-acme-3"]


async def starts_after(platform: Platform, server: Server, time: timedelta) -> None:
    """The first job ends, and the third is given its capacity."""
    platform.clock.pass_seconds(time.total_seconds())
    await platform.cancel(1)
    await server.stop.once()
    await server.admit.once()
    assert (await platform.job("uid-acme-3")).attempt_count == 1


@pytest.mark.parametrize("when", ["before", "within", "after"])
async def test_a_start_is_counted_once_where_it_lies(platform: Platform, when: str) -> None:
    seen = counts()
    server, told = await third_waits(platform)
    now: datetime = told.time
    places = {"before": now, "within": told.start.expected, "after": told.start.latest + timedelta(seconds=5)}
    if when == "before":
        assert told.start.earliest > now, "or nothing can be sooner"
    await starts_after(platform, server, max(timedelta(0), places[when] - platform.clock.now()))
    await server.board.once()
    assert grown(seen) == {when: 1}
    assert await foretold(platform.units) == {}
    for _ in range(2):
        await server.admit.once()
        await server.board.once()
    assert grown(seen) == {when: 1}


async def test_the_first_word_counts_and_outlives_its_server(platform: Platform) -> None:
    seen = counts()
    server, told = await third_waits(platform)
    for _ in range(3):
        platform.clock.pass_seconds(15)
        await server.admit.once()
        await server.board.once()
    assert (await foretold(platform.units))["uid-acme-3"] == told
    another = platform.server()
    await another.admit.once()
    await another.board.once()
    assert (await foretold(platform.units))["uid-acme-3"].start == told.start
    await starts_after(platform, server, told.start.latest - platform.clock.now() + timedelta(seconds=5))
    third = platform.server()
    await third.admit.once()
    await third.board.once()
    assert grown(seen) == {"after": 1}


@pytest.mark.parametrize("leaves", ["cancel", "pause"])
async def test_who_leaves_the_queue_otherwise_is_not_counted(platform: Platform, leaves: str) -> None:
    seen = counts()
    server, _ = await third_waits(platform)
    await (platform.cancel(3) if leaves == "cancel" else platform.pause(3))
    platform.clock.pass_seconds(2)
    await server.admit.once()
    await server.board.once()
    assert await foretold(platform.units) == {}
    if leaves == "pause":
        await platform.resume(3)
        platform.clock.pass_seconds(15)
        await server.admit.once()
        await server.board.once()
        assert (await foretold(platform.units))["uid-acme-3"].time == platform.clock.now().replace(microsecond=0)
    assert grown(seen) == {}


async def test_a_board_of_an_older_server_foretells_nothing(platform: Platform) -> None:
    server, told = await third_waits(platform)
    assert isinstance(told.start, StartInterval)
    async with platform.units() as unit:
        board = await unit.board.get()
        assert board is not None
        await unit.board.put(board)  # as it was read, without what was foretold
        await unit.commit()
    assert await foretold(platform.units) == {}
    await platform.server().board.once()
    platform.clock.pass_seconds(15)
    await server.admit.once()
    await server.board.once()
    assert [*await foretold(platform.units)] == ["uid-acme-3"]
