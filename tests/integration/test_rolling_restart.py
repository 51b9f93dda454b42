"""Two server processes on one PostgreSQL: what a dead one left is taken over, and a restart fails no call."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples
from tests.server_fakes import LINES
from tests.server_process import SECONDS, Server

import trellis
from trellis.local.ports import free_ports
from trellis.server.domain.tuning_job import EventLevel, JobEvent, JobState
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory


@pytest.fixture
def database() -> str:
    return "postgresql"


@pytest.fixture
def servers(migrated_url: str, tmp_path: Path) -> Iterator[list[Server]]:
    one, two, three, four = free_ports(4)
    found = [Server(tmp_path, one, two, migrated_url, "first"), Server(tmp_path, three, four, migrated_url, "second")]
    for server in found:
        server.start(TRELLIS_TENANT_RUNNING_LIMIT="8")
        server.until_ready()
    yield found
    for server in found:
        server.end()


@asynccontextmanager
async def client_of(*servers: Server) -> AsyncIterator[trellis.AsyncClient]:
    endpoint = ",".join(f"127.0.0.1:{server.grpc_port}" for server in servers)
    async with trellis.AsyncClient(endpoint, servers[0].key, tenant="acme") as client:
        yield client


async def prepare(client: trellis.AsyncClient, folder: Path) -> None:
    path = folder / "data.jsonl"
    path.write_bytes(LINES)
    await client.tenants.create("acme")
    await client.datasets.upload(path, dataset="pings")


class Load:
    """Clients that call until they are stopped, and keep what went wrong."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.counts: dict[str, int] = {}

    def add(self, name: str, call: Callable[[int], Awaitable[object]]) -> None:
        async def run() -> None:
            number = 0
            while not self._stopped.is_set():
                await call(number)
                number += 1
                self.counts[name] = number
                await asyncio.sleep(0.005)

        self._tasks.append(asyncio.create_task(run(), name=name))

    def failures(self) -> list[str]:
        return [f"{task.get_name()}: {task.exception()!r}" for task in self._tasks if task.done() and task.exception()]

    async def stop(self) -> None:
        self._stopped.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def restart(server: Server) -> None:
    """As an operator does: ask it to stop, wait, start it again, wait until it is ready."""
    process = server.started[-1]
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, SECONDS) == 0
    server.start(TRELLIS_TENANT_RUNNING_LIMIT="8")
    await asyncio.to_thread(server.until_ready)


async def tick(units: SqlUnitOfWorkFactory, job: str, number: int) -> None:
    """Something to watch: what a process of the job would report."""
    async with units() as unit:
        present = await unit.jobs.get("acme", job.rpartition("/")[2], for_update=True)
        assert present is not None
        await unit.jobs.save(present, [JobEvent(samples.at(number), EventLevel.INFO, f"tick {number}")])
        await unit.commit()


async def test_a_rolling_restart_fails_no_call(servers: list[Server], engine: AsyncEngine, tmp_path: Path) -> None:
    load, units = Load(), SqlUnitOfWorkFactory(engine)
    heard: list[trellis.JobEvent] = []
    async with client_of(*servers) as client:
        await prepare(client, tmp_path)
        job = await client.jobs.create("pings")

        async def watch() -> None:
            async for event in client.jobs.watch(job.name):
                heard.append(event)  # noqa: PERF401 - what was heard so far stays when it ends badly

        async def create(number: int) -> None:
            assert (await client.datasets.create(f"made-{number}")).name.endswith(f"/made-{number}")

        async def read(_: int) -> None:
            assert (await client.jobs.get(job.name)).name == job.name

        async def list_datasets(_: int) -> None:
            async with aclosing(client.datasets.list(page_size=5)) as found:
                assert (await anext(found)).name

        watching = asyncio.create_task(watch())
        for name, call in (("get", read), ("list", list_datasets), ("create", create)):
            load.add(name, call)
        load.add("tick", lambda number: tick(units, job.name, number))
        for server in servers:
            before = dict(load.counts)
            await restart(server)
            assert not load.failures()
            assert all(count > before.get(name, 0) for name, count in load.counts.items())
        await load.stop()
        assert not load.failures()
        await client.jobs.cancel(job.name)
        await asyncio.wait_for(watching, SECONDS)
        made = [dataset.name async for dataset in client.datasets.list()]
    assert [event.sequence for event in heard] == list(range(1, len(heard) + 1))
    assert sum(event.message.startswith("tick") for event in heard) == load.counts["tick"]
    assert len(made) == len(set(made)) == load.counts["create"] + 1


async def test_the_work_of_a_killed_server_is_taken_over(
    servers: list[Server], engine: AsyncEngine, tmp_path: Path
) -> None:
    units = SqlUnitOfWorkFactory(engine)
    first, second = servers
    async with client_of(first) as client:
        await prepare(client, tmp_path)
        jobs = [(await client.jobs.create("pings")).name.rpartition("/")[2] for _ in range(6)]
        large = tmp_path / "large.jsonl"
        large.write_bytes(LINES * 300)
        version = await client.datasets.upload(large, dataset="large", wait=False)
    first.started[-1].kill()
    first.started[-1].wait()
    async with client_of(first, second) as client, asyncio.timeout(SECONDS):
        while (await client.datasets.get_version(version.name)).state is not trellis.DatasetVersionState.READY:
            await asyncio.sleep(0.1)
        # Who started first held the leases.
        while not has_lease(second, "deploy"):
            await asyncio.sleep(0.1)
        while await unadmitted(units, jobs):
            await asyncio.sleep(0.1)
    async with units(write=False) as unit:
        [trainer] = await unit.trainers.live()
        given = await unit.trainers.open_attempts([trainer.uid])
        found = [await unit.jobs.get("acme", job) for job in jobs]
    # Each was admitted once, and onto the one trainer that there is room for.
    assert sorted(attempt.job_uid for attempt in given) == sorted(job.uid for job in found if job)
    assert [job.attempt_count for job in found if job] == [1] * len(jobs)


def has_lease(server: Server, name: str) -> bool:
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return any(line["event"] == "lease_acquired" and line["lease"] == name for line in lines)


async def unadmitted(units: SqlUnitOfWorkFactory, jobs: list[str]) -> list[str]:
    async with units(write=False) as unit:
        found = {job: await unit.jobs.get("acme", job) for job in jobs}
    return [name for name, job in found.items() if job is None or job.state is JobState.QUEUED]
