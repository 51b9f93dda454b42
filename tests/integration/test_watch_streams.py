"""Hundreds of watchers over a real socket: they cost little while nothing happens, and miss nothing when it does."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples
from tests.rpc_server import Door, open_door, refusal
from tests.server_fakes import make_world

from trellis.server.app.bell import Bell
from trellis.server.app.context import Context
from trellis.server.app.waiting import Pause
from trellis.server.domain.tuning_job import EventLevel, JobEvent, JobState
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory
from trellis.v1 import tuning_job_pb2 as pb
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceStub

WATCHERS = 500
JOBS = 25
SECONDS = 60


class CountingPause(Pause):
    """Counts how often somebody waited."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1
        await super().__call__()


class Site:
    """A server, and the jobs that are watched."""

    def __init__(self, door: Door, pause: CountingPause, engine: AsyncEngine) -> None:
        self.door = door
        self.pause = pause
        self.engine = engine
        self._stub = TuningJobServiceStub(door.channel)
        self._key = door.key("member")

    @property
    def context(self) -> Context:
        return self.door.world.context

    def watch(self, number: int, after: int = 0) -> Any:
        request = pb.WatchTuningJobRequest(name=f"tenants/acme/tuningJobs/job-{number}", after_sequence=after)
        return self._stub.WatchTuningJob(request, metadata=self._key)

    def log(self, number: int) -> Any:
        request = pb.ReadTuningJobLogsRequest(name=f"tenants/acme/tuningJobs/job-{number}", follow=True)
        return self._stub.ReadTuningJobLogs(request, metadata=self._key)

    async def tell(self, number: int, *messages: str, state: JobState | None = None, log: str = "") -> None:
        """Events and output of a job."""
        async with self.context.units() as unit:
            job = await unit.jobs.get("acme", f"job-{number}", for_update=True)
            assert job is not None
            if state is not None:
                job = job.moved(state, samples.at(number))
            await unit.jobs.save(job, [JobEvent(samples.NOW, EventLevel.INFO, each) for each in messages])
            await unit.jobs.append_log(job.uid, 1, log)
            await unit.commit()

    async def until_waiting(self, count: int) -> None:
        """Until so many streams have nothing to say."""
        async with asyncio.timeout(SECONDS):
            while len(self.context.jobs) != count:
                await asyncio.sleep(0.01)

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """What the database is asked meanwhile."""
        asked: list[str] = []

        def remember(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            asked.append(statement)

        event.listen(self.engine.sync_engine, "before_cursor_execute", remember)
        try:
            yield asked
        finally:
            event.remove(self.engine.sync_engine, "before_cursor_execute", remember)


async def open_site(engine: AsyncEngine, folder: Path, bell: Bell, seconds: float) -> AsyncIterator[Site]:
    units, pause = SqlUnitOfWorkFactory(engine, bell.ring), CountingPause(seconds)
    world = make_world(units, folder)
    world = replace(world, context=replace(world.context, wait=pause))
    await samples.seed(units, *(samples.job(number) for number in range(JOBS)))
    async with units() as unit:
        await unit.tenants.add(samples.tenant("globex"))
        await unit.commit()
    async with open_door(world) as door:
        yield Site(door, pause, engine)


@pytest.fixture
async def site(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Site]:
    async for opened in open_site(engine, tmp_path, Bell(), 0.05):
        yield opened


async def messages(stream: Any, count: int) -> list[str]:
    async with asyncio.timeout(SECONDS):
        return [(await stream.read()).message for _ in range(count)]


async def test_five_hundred_cost_what_one_costs_and_miss_nothing(site: Site) -> None:
    streams = [site.watch(number % JOBS) for number in range(WATCHERS)]
    await site.until_waiting(WATCHERS)
    with site.statements() as asked:
        before = site.pause.count
        await asyncio.sleep(1)
        looks = site.pause.count - before
    selects = [statement for statement in asked if statement.startswith("SELECT")]
    assert 0 < len(selects) <= looks + 1, f"{len(selects)} queries in {looks} looks"

    with site.statements() as asked:
        for number in range(JOBS):
            await site.tell(number, f"one of {number}")
            await site.tell(number, f"two of {number}", state=JobState.CANCELLED)
        heard = await asyncio.gather(*(messages(stream, 2) for stream in streams))
    reads = [statement for statement in asked if "FROM job_events" in statement]
    assert len(reads) < WATCHERS / 2, "streams of one job read together"
    assert heard == [[f"one of {number % JOBS}", f"two of {number % JOBS}"] for number in range(WATCHERS)]
    assert [await stream.read() for stream in streams] == [grpc.aio.EOF] * WATCHERS
    await site.until_waiting(0)


async def test_a_log_wakes_its_readers_and_not_those_of_events(site: Site) -> None:
    events, log = site.watch(1), site.log(1)
    await site.until_waiting(2)
    await site.tell(1, log="Step 1.\n")
    async with asyncio.timeout(SECONDS):
        assert (await log.read()).text == "Step 1.\n"
    await site.until_waiting(2)
    await site.tell(1, "Done.", state=JobState.CANCELLED)
    assert await messages(events, 1) == ["Done."]
    async with asyncio.timeout(SECONDS):
        assert await log.read() is grpc.aio.EOF


async def test_a_slow_reader_keeps_nobody_waiting_and_no_connection(site: Site) -> None:
    slow, fast = site.watch(1), site.watch(1)
    many = [f"{number} {'x' * 2000}" for number in range(4000)]
    await site.tell(1, *many)
    assert await messages(fast, len(many)) == many
    other = site.watch(2)
    await site.until_waiting(2)  # the fast one, and another that is answered; the slow one is held up by its reader
    pool: Any = site.engine.pool
    async with asyncio.timeout(SECONDS):
        while pool.checkedout():
            await asyncio.sleep(0.01)
    await site.tell(1, "Last.", state=JobState.CANCELLED)
    assert await messages(slow, len(many) + 1) == [*many, "Last."]
    other.cancel()


async def test_cancelled_streams_leave_nothing_behind(site: Site) -> None:
    streams = [site.watch(number % JOBS) for number in range(100)]
    await site.until_waiting(100)
    for stream in streams[:60]:
        stream.cancel()
    await site.until_waiting(40)
    await site.tell(0, "Hello.")
    assert await messages(streams[75], 1) == ["Hello."]
    for stream in streams[60:]:
        stream.cancel()
    await site.until_waiting(0)


async def test_a_server_that_stops_says_so_to_all(site: Site) -> None:
    streams = [*(site.watch(number % JOBS) for number in range(90)), *(site.log(number) for number in range(10))]
    await site.until_waiting(100)
    site.pause.stop()
    for stream in streams:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(SECONDS):
                await stream.read()
        said = refusal(caught.value)
        assert (said.code, said.reason) == ("UNAVAILABLE", "SERVER_STOPPING")


async def test_what_the_server_itself_changes_is_told_at_once(engine: AsyncEngine, tmp_path: Path) -> None:
    bell = Bell()
    async for site in open_site(engine, tmp_path, bell, 3600):  # so that no look finds it
        bell.listen(site.context.jobs.ring)
        events, log = site.watch(1), site.log(1)
        await site.until_waiting(2)
        await site.tell(1, "Hello.")
        assert await messages(events, 1) == ["Hello."]
        await site.until_waiting(2)  # who looks just then hears no bell, and finds it with the next look
        await site.tell(1, log="Step 1.\n")
        async with asyncio.timeout(SECONDS):
            assert (await log.read()).text == "Step 1.\n"
        events.cancel()
        log.cancel()
        site.pause.stop()
