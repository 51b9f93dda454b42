"""A server process whose PostgreSQL comes late, is killed twice under load, and takes no writes for a while."""

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.postgres import DURABLE, INSTALL_HINT, PostgresServer, find_programs
from tests.server_fakes import LINES
from tests.server_process import SECONDS, Server

import trellis
from trellis.local.ports import free_ports

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    programs = find_programs()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail(INSTALL_HINT)
        pytest.skip(INSTALL_HINT)
    found = PostgresServer(programs, DURABLE)
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def server(postgres: PostgresServer, tmp_path: Path) -> Iterator[Server]:
    grpc_port, http_port = free_ports(2)
    found = Server(tmp_path, grpc_port, http_port, postgres.url(postgres.create_database()))
    yield found
    found.end()


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[trellis.AsyncClient]:
    async with trellis.AsyncClient(f"127.0.0.1:{server.grpc_port}", server.key, tenant="acme") as client:
        yield client


def readiness(server: Server) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/readyz", timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
    except OSError:
        return ""


async def until_said(server: Server, words: str) -> None:
    async with asyncio.timeout(SECONDS):
        while words not in await asyncio.to_thread(readiness, server):
            await asyncio.sleep(0.05)


class Callers:
    """Who create and read until they are stopped; each create has a request_id, and is repeated with it until it is answered."""

    def __init__(self, client: trellis.AsyncClient) -> None:
        self._client = client
        self._stopped = asyncio.Event()
        self.jobs: dict[str, str] = {}
        """The name that was answered, by request_id."""
        self.reads = 0
        self.refused: list[trellis.TrellisError] = []

    async def create(self, caller: int) -> None:
        number = 0
        while not self._stopped.is_set():
            number += 1
            request_id = f"request-{caller}-{number}"
            while request_id not in self.jobs:
                try:
                    self.jobs[request_id] = (await self._client.jobs.create("pings", request_id=request_id)).name
                except trellis.TrellisError as error:
                    self.refused.append(error)
                    await asyncio.sleep(0.1)

    async def read(self) -> None:
        while not self._stopped.is_set():
            try:
                self.reads += len([job async for job in self._client.jobs.list(page_size=50)]) >= 0
            except trellis.TrellisError as error:
                self.refused.append(error)
            await asyncio.sleep(0.05)

    async def until_more(self, more: int) -> None:
        wanted, reads = len(self.jobs) + more, self.reads + 1
        async with asyncio.timeout(SECONDS):
            while len(self.jobs) < wanted or self.reads < reads:
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._stopped.set()


async def test_no_acknowledged_job_is_lost_or_made_twice(
    postgres: PostgresServer, server: Server, tmp_path: Path
) -> None:
    postgres.kill()
    server.start()
    await until_said(server, "The server waits for its database, which can't be reached.")
    postgres.start_again()
    await until_said(server, "ok")
    data = tmp_path / "data.jsonl"
    data.write_bytes(LINES)
    async with client_of(server) as client:
        await client.tenants.create("acme")
        await client.datasets.upload(data, dataset="pings")
        callers = Callers(client)
        async with asyncio.TaskGroup() as group:
            for caller in range(4):
                group.create_task(callers.create(caller))
            group.create_task(callers.read())
            for _ in range(2):
                await callers.until_more(10)
                postgres.kill()
                await until_said(server, "The database does not answer")
                postgres.start_again()
                await until_said(server, "ok")
            await callers.until_more(10)
            callers.stop()
        found = [job.name async for job in client.jobs.list(page_size=200)]
        assert len(found) == len(set(found))
        assert set(found) == set(callers.jobs.values()), "each was made once, and is there"
        assert {error.STATUS for error in callers.refused} <= {"UNAVAILABLE", "ABORTED"}
        await takes_no_writes(postgres, server)
        await hangs(postgres, server)
        # What the loops do goes on: the data is validated.
        other = tmp_path / "other.jsonl"
        other.write_bytes(LINES * 2)
        version = await client.datasets.upload(other, dataset="others")
        assert version.state is trellis.DatasetVersionState.READY


async def hangs(postgres: PostgresServer, server: Server) -> None:
    """Whoever asks for readiness hears of it soon, and of its end."""
    postgres.signal(signal.SIGSTOP)
    try:
        await until_said(server, "The database does not answer: nothing came back.")
    finally:
        postgres.signal(signal.SIGCONT)
    await until_said(server, "ok")


async def takes_no_writes(postgres: PostgresServer, server: Server) -> None:
    postgres.change("default_transaction_read_only", "on")
    async with trellis.AsyncClient(
        f"127.0.0.1:{server.grpc_port}", server.key, tenant="acme", retry=trellis.Retry(attempts=1)
    ) as once:
        try:
            async with asyncio.timeout(SECONDS):
                while (error := await refused(once)) is None:
                    await asyncio.sleep(0.05)
            assert "takes no writes" in str(error)
            assert error.retry_after
            assert [dataset.name async for dataset in once.datasets.list()]
        finally:
            postgres.change("default_transaction_read_only", "off")


async def refused(client: trellis.AsyncClient) -> trellis.Unavailable | None:
    try:
        await client.datasets.create(f"made-{os.urandom(4).hex()}")
    except trellis.Unavailable as error:
        return error
    return None
