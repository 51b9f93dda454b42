"""A PostgreSQL, server processes on it, and the rows of an installation of some age."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import trellis
from tests.bench.control_rig.empty_server import METHOD
from tests.contract.store import samples
from tests.many_rows import copy
from tests.postgres import PostgresServer, find_programs
from tests.server_fakes import LINES
from tests.server_process import Server
from trellis.local.ports import free_ports
from trellis.server.domain.tuning_job import JobState
from trellis.server.store import tables
from trellis.server.store.engine import create_engine_for
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "autovacuum": "on"}
_LOCAL = (("grpc.use_local_subchannel_pool", 1),)
CHANNELS = 4
"""Connections to each server."""


class Site:
    """What is measured, and what it is measured against."""

    def __init__(self, folder: Path, jobs: int, tenants: int) -> None:
        self._folder = folder
        self._jobs = jobs
        self._tenants = tenants
        self._stack = ExitStack()
        programs = find_programs()
        if programs is None:
            raise SystemExit("PostgreSQL's server programs are not installed.")
        self._postgres = PostgresServer(programs, _DURABLE)
        self._stack.callback(self._postgres.stop)
        self._postgres.start()
        self.url = self._postgres.url(self._postgres.create_database())
        one, two, three, four, self._empty_port = free_ports(5)
        self._servers = [
            Server(folder, one, two, self.url, "first"),
            Server(folder, three, four, self.url, "second"),
        ]
        self.watched: list[str] = []
        """Names of jobs of tenant acme that do not end."""
        self.key = ""
        """A member's of tenant acme."""
        self.version = ""
        """A dataset version of it that can be trained on."""

    @property
    def servers(self) -> list[Server]:
        """Both, whether they run or not."""
        return self._servers

    def close(self) -> None:
        """End all of it."""
        self._stack.close()

    async def prepare(self, watched: int) -> None:
        """A tenant with data and jobs, made through the API, and copies of them."""
        first = self._servers[0]
        self._start(first)
        async with trellis.AsyncClient(f"127.0.0.1:{first.grpc_port}", first.key, tenant="acme") as admin:
            await admin.tenants.create("acme")
            self.key = (await admin.api_keys.create("tenants/acme")).secret
            data = self._folder / "data.jsonl"
            data.write_bytes(LINES)
            self.version = (await admin.datasets.upload(data, dataset="faq")).name
            self.watched = [
                (await admin.jobs.pause((await admin.jobs.create("faq")).name)).name for _ in range(watched)
            ]
        await self._copy()

    async def _copy(self) -> None:
        engine = create_engine_for(self.url)
        ended: dict[str, Any] = {"state": JobState.SUCCEEDED, "end_time": samples.NOW}
        async with SqlUnitOfWorkFactory(engine)() as unit:
            await unit.adapters.add(samples.adapter(1))
            await unit.commit()
        async with engine.begin() as connection:
            await copy(connection, tables.tenants, 0, self._tenants)
            await copy(connection, tables.tuning_jobs, 0, self._jobs // 2, **ended)
            each = self._jobs // 2 // self._tenants
            for number in range(self._tenants):
                start = self._jobs // 2 + each * number
                await copy(connection, tables.tuning_jobs, start, start + each, **ended, tenant=f"tenant-{number:05}")
            await copy(connection, tables.adapters, 0, 1000)
        await _vacuum(engine)
        await engine.dispose()

    def _start(self, server: Server) -> None:
        self._stack.callback(server.end)
        server.start(TRELLIS_JOB_CPUS="1", TRELLIS_CAPACITY_CPUS="1")
        server.until_ready()

    def start_second(self) -> None:
        """One more server on the same database."""
        self._start(self._servers[1])

    def channels(self, *servers: Server) -> list[grpc.aio.Channel]:
        """Connections to them, in turns."""
        ports = [server.grpc_port for server in servers] * CHANNELS
        return [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_LOCAL) for port in ports]

    def empty_channels(self, answer: bytes) -> list[grpc.aio.Channel]:
        """Connections to a server that does nothing but give this answer to METHOD."""
        file = self._folder / "answer"
        file.write_bytes(answer)
        module = "tests.bench.control_rig.empty_server"
        process = subprocess.Popen([sys.executable, "-m", module, str(self._empty_port), str(file)])
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        options = (*_LOCAL, ("grpc.initial_reconnect_backoff_ms", 100))
        return [grpc.aio.insecure_channel(f"127.0.0.1:{self._empty_port}", options=options) for _ in range(CHANNELS)]


async def _vacuum(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await alone.execute(text("VACUUM ANALYZE"))


def cpu_seconds(server: Server) -> float:
    """What the server's process has computed so far."""
    stat = Path(f"/proc/{server.started[-1].pid}/stat").read_text(encoding="ascii")
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


__all__ = ["CHANNELS", "METHOD", "Site", "cpu_seconds"]
