"""How many calls does the control plane answer a second, how long do they take, and what do hundreds of streams cost?

Over a PostgreSQL with 10,000 jobs and 1,000 tenants; against an empty grpc.aio handler and a plain SELECT by the same driver.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import signal
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.bench.control_rig import claims
from tests.bench.control_rig.load import Call, Numbers, Timing, measure, percentile, together
from tests.bench.control_rig.page import Latency, page
from tests.bench.control_rig.site import CHANNELS, METHOD, Site
from tests.bench.control_rig.watches import Watches
from tests.bench.report import Machine, Row, Sheet, output_options, say, versions
from trellis.server.store import tables
from trellis.server.store.engine import create_engine_for
from trellis.v1 import adapter_pb2, dataset_pb2, tenant_pb2, tuning_job_pb2
from trellis.v1.adapter_pb2_grpc import AdapterServiceStub
from trellis.v1.dataset_pb2_grpc import DatasetServiceStub
from trellis.v1.tenant_pb2_grpc import TenantServiceStub
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceStub

_DISTRIBUTIONS: Final = ("trellis", "grpcio", "SQLAlchemy", "psycopg")
_PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    jobs: int
    tenants: int
    rounds: int
    seconds: float
    """Of each measurement in each round."""
    streams: int
    watched: int
    idle_seconds: float
    told_seconds: float


FULL: Final = Sizes(10_000, 1_000, 3, 2.0, 500, 25, 5.0, 10.0)
QUICK: Final = Sizes(400, 20, 1, 0.5, 20, 5, 1.0, 2.0)


@dataclass
class Run:
    """One run, and what it has found so far."""

    site: Site
    sizes: Sizes
    rows: list[Row] = field(default_factory=list)
    latencies: dict[str, Latency] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=Numbers)

    async def measure(self) -> None:
        """All of it."""
        await self.site.prepare(self.sizes.watched)
        async with contextlib.AsyncExitStack() as stack:
            one = [await stack.enter_async_context(channel) for channel in self.site.channels(self.site.servers[0])]
            calls = Calls(self.site, one)
            answer = await calls.get_job(0)
            empty = [
                await stack.enter_async_context(channel)
                for channel in self.site.empty_channels(answer.SerializeToString())
            ]
            await self._one_server(calls, empty)
            say("— streams")
            await self._streams(one)
            say("— two servers")
            self.site.start_second()
            both = [await stack.enter_async_context(channel) for channel in self.site.channels(*self.site.servers)]
            await self._two_servers(calls, Calls(self.site, both))

    async def _one_server(self, calls: "Calls", empty: Sequence[grpc.aio.Channel]) -> None:
        nothing, engine = _empty_call(empty), create_engine_for(self.site.url)
        await calls.find_deep_page(self.sizes.jobs // 4)
        plan: dict[str, tuple[Call, int]] = {
            **{f"empty_{count}": (nothing, count) for count in (1, 16, 64)},
            **{f"get_job_{count}": (calls.get_job, count) for count in (1, 16, 64)},
            "select_16": (_select_call(engine, self.site.watched[0].rpartition("/")[2]), 16),
            "get_tenant_16": (calls.get_tenant, 16),
            "list_adapters_16": (calls.list_adapters, 16),
            "list_jobs_16": (calls.list_jobs, 16),
            "list_jobs_deep_16": (calls.list_deep, 16),
            "list_jobs_all_16": (calls.list_all, 16),
            "create_dataset_16": (calls.create_dataset, 16),
            "create_job_16": (calls.create_job, 16),
        }
        found = await self._in_turns(plan)
        await engine.dispose()
        for name, peer, unit in (
            *((f"get_job_{count}", f"empty_{count}", claims.EMPTY) for count in (1, 16, 64)),
            ("get_tenant_16", "empty_16", claims.EMPTY),
            *((name, "get_job_16", "GetTuningJob") for name in ("list_adapters_16", "list_jobs_16")),
            ("list_jobs_deep_16", "list_jobs_16", claims.FIRST),
            ("list_jobs_all_16", "list_jobs_16", "a tenant's page"),
            *((name, "get_job_16", "GetTuningJob") for name in ("create_dataset_16", "create_job_16")),
        ):
            self._row(name, found[name], unit, found[peer])
        self._row("get_job_16_over_select", found["get_job_16"], claims.SELECT, found["select_16"])

    async def _two_servers(self, one: "Calls", both: "Calls") -> None:
        plan: dict[str, tuple[Call, int]] = {
            "get_job_64": (one.get_job, 64),
            "get_job_64_two_servers": (both.get_job, 64),
            "create_dataset_16": (one.create_dataset, 16),
            "create_dataset_16_two_servers": (both.create_dataset, 16),
        }
        found = await self._in_turns(plan)
        for name in ("get_job_64", "create_dataset_16"):
            self._row(f"{name}_two_servers", found[f"{name}_two_servers"], claims.ONE, found[name])

    async def _in_turns(self, plan: dict[str, tuple[Call, int]]) -> dict[str, Timing]:
        timings: dict[str, list[Timing]] = {name: [] for name in plan}
        for number in range(self.sizes.rounds):
            say(f"— round {number + 1} of {self.sizes.rounds}")
            for name, (call, at_once) in plan.items():
                timings[name].append(await measure(call, at_once, self.sizes.seconds, self.numbers))
        found = {name: together(each) for name, each in timings.items()}
        for name, timing in found.items():
            self.latencies.setdefault(name, Latency(name, plan[name][1], timing))
        return found

    async def _streams(self, channels: Sequence[grpc.aio.Channel]) -> None:
        sizes, watches = self.sizes, Watches(self.site, channels, _metadata(self.site))
        none = await watches.idle(sizes.idle_seconds)
        await watches.open(1)
        one = await watches.idle(sizes.idle_seconds)
        await watches.open(sizes.streams - 1)
        many = await watches.idle(sizes.idle_seconds)
        await watches.tell(sizes.told_seconds, pause=0.1)
        await watches.close()
        self.rows += [
            Row("watch_1_idle", one, "of a CPU", claims.NO_STREAM, none),
            Row("watch_500_idle", many, "of a CPU", claims.NO_STREAM, none),
            Row("watch_delay_p50", 1000 * statistics.median(watches.delays), "ms"),
            Row("watch_delay_p99", 1000 * percentile(watches.delays, 0.99), "ms"),
        ]

    def _row(self, name: str, ours: Timing, peer: str, theirs: Timing) -> None:
        self.rows.append(Row(name, ours.calls_per_second, "calls/s", peer, theirs.calls_per_second))


class Calls:
    """The calls that are measured, over some connections in turns."""

    def __init__(self, site: Site, channels: Sequence[grpc.aio.Channel]) -> None:
        self._site = site
        self._metadata = _metadata(site)
        self._jobs = [TuningJobServiceStub(channel) for channel in channels]
        self._tenants = [TenantServiceStub(channel) for channel in channels]
        self._adapters = [AdapterServiceStub(channel) for channel in channels]
        self._datasets = [DatasetServiceStub(channel) for channel in channels]
        self._get = tuning_job_pb2.GetTuningJobRequest(name=site.watched[0])
        self._list = tuning_job_pb2.ListTuningJobsRequest(parent="tenants/acme", page_size=_PAGE)
        self._deep = self._list
        self._admin = (("authorization", f"Bearer {site.servers[0].key}"),)

    def _turn(self, stubs: Sequence[Any], number: int) -> Any:
        return stubs[number % len(stubs)]

    async def find_deep_page(self, skipped: int) -> None:
        """The page that begins after so many jobs."""
        token = ""
        for _ in range(max(1, skipped // 1000)):
            request = tuning_job_pb2.ListTuningJobsRequest(
                parent="tenants/acme", page_size=min(1000, skipped), page_token=token
            )
            token = (await self._jobs[0].ListTuningJobs(request, metadata=self._metadata)).next_page_token
        assert token, "there is no page so late"
        self._deep = tuning_job_pb2.ListTuningJobsRequest(parent="tenants/acme", page_size=_PAGE, page_token=token)

    def get_job(self, number: int) -> Awaitable[Any]:
        """GetTuningJob."""
        return self._turn(self._jobs, number).GetTuningJob(self._get, metadata=self._metadata)

    def list_jobs(self, number: int) -> Awaitable[Any]:
        """ListTuningJobs, the first page."""
        return self._turn(self._jobs, number).ListTuningJobs(self._list, metadata=self._metadata)

    def list_deep(self, number: int) -> Awaitable[Any]:
        """ListTuningJobs, a late page."""
        return self._turn(self._jobs, number).ListTuningJobs(self._deep, metadata=self._metadata)

    def list_all(self, number: int) -> Awaitable[Any]:
        """ListTuningJobs of all tenants."""
        request = tuning_job_pb2.ListTuningJobsRequest(parent="tenants/-", page_size=_PAGE)
        return self._turn(self._jobs, number).ListTuningJobs(request, metadata=self._admin)

    def get_tenant(self, number: int) -> Awaitable[Any]:
        """GetTenant."""
        request = tenant_pb2.GetTenantRequest(name="tenants/acme")
        return self._turn(self._tenants, number).GetTenant(request, metadata=self._metadata)

    def list_adapters(self, number: int) -> Awaitable[Any]:
        """ListAdapters."""
        request = adapter_pb2.ListAdaptersRequest(parent="tenants/acme", page_size=_PAGE)
        return self._turn(self._adapters, number).ListAdapters(request, metadata=self._metadata)

    def create_dataset(self, number: int) -> Awaitable[Any]:
        """CreateDataset."""
        request = dataset_pb2.CreateDatasetRequest(
            parent="tenants/acme", dataset_id=f"made-{number}", request_id=f"dataset-{number}"
        )
        return self._turn(self._datasets, number).CreateDataset(request, metadata=self._metadata)

    def create_job(self, number: int) -> Awaitable[Any]:
        """CreateTuningJob."""
        job = tuning_job_pb2.TuningJob(training_dataset=self._site.version)
        request = tuning_job_pb2.CreateTuningJobRequest(
            parent="tenants/acme", tuning_job=job, request_id=f"job-{number}"
        )
        return self._turn(self._jobs, number).CreateTuningJob(request, metadata=self._metadata)


def _empty_call(channels: Sequence[grpc.aio.Channel]) -> Call:
    request, answer = tuning_job_pb2.GetTuningJobRequest, tuning_job_pb2.TuningJob
    starts = [channel.unary_unary(METHOD, request.SerializeToString, answer.FromString) for channel in channels]
    asked = request(name="tenants/acme/tuningJobs/any")
    return lambda number: starts[number % len(starts)](asked, wait_for_ready=True)


def _select_call(engine: AsyncEngine, job_id: str) -> Call:
    jobs = tables.tuning_jobs
    statement = select(jobs).where(jobs.c.tenant == "acme", jobs.c.job_id == job_id)

    async def call(_: int) -> object:
        async with engine.connect() as connection:
            return (await connection.execute(statement)).one()

    return call


def _metadata(site: Site) -> Any:
    return (("authorization", f"Bearer {site.key}"),)


def main() -> None:
    """Measure, and publish it."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    machine, sizes = Machine.this(), QUICK if given.quick else FULL
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Site(Path(folder), sizes.jobs, sizes.tenants)) as site,
    ):
        run = Run(site, sizes)
        asyncio.run(run.measure())
    settings = {
        "rows": f"{sizes.jobs} jobs, {sizes.tenants} tenants",
        "rounds": f"{sizes.rounds} of {sizes.seconds:g} s",
        "connections": f"{CHANNELS} to each server",
        "page": f"{_PAGE} rows",
        "streams": f"{sizes.streams} on {sizes.watched} jobs",
    }
    today = dt.datetime.now(dt.UTC).date().isoformat()
    sheet = Sheet("control plane", today, given.quick, machine, versions(_DISTRIBUTIONS), settings, run.rows)
    sheet.publish(given.json)
    for one in run.latencies.values():
        timing = one.timing
        rate = f"{timing.calls_per_second:8.0f} calls/s"
        print(f"{one.name:32} {rate}  p50 {timing.p50_ms:7.1f} ms  p99 {timing.p99_ms:7.1f} ms")
    if given.json is not None:
        command = f".venv/bin/python -m tests.bench.control_plane {' '.join(sys.argv[1:])}".rstrip()
        given.json.with_suffix(".md").write_text(page(sheet, run.latencies, command), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.control_plane", description=__doc__)
    output_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
