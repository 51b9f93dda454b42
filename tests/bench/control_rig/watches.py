"""Hundreds of watch streams: what they cost while nothing happens, and how late an event comes to them."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc

from tests.bench.control_rig.site import Site, cpu_seconds
from trellis.server.domain.tuning_job import EventLevel, JobEvent
from trellis.server.store.engine import create_engine_for
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory
from trellis.v1 import tuning_job_pb2 as pb
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceStub

_SENT = "sent at "


@dataclass
class Watches:
    """Streams over the first server, all of the site's watched jobs in turns."""

    site: Site
    channels: Sequence[grpc.aio.Channel]
    metadata: Any
    delays: list[float] = field(default_factory=list)
    """Seconds from before an event was written to when a stream had it."""
    opened: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def open(self, count: int) -> None:
        """So many further streams, each of which has had all that there was."""
        already = self.opened
        for number in range(already, already + count):
            self._tasks.append(asyncio.create_task(self._watch(number)))
        async with asyncio.timeout(120):
            while self.opened < already + count:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)

    async def close(self) -> None:
        """End all streams; raises what went wrong with one."""
        broken = [task for task in self._tasks if task.done()]
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in broken:
            task.result()
        assert not broken, "a stream ended before its job"

    async def _watch(self, number: int) -> None:
        stub = TuningJobServiceStub(self.channels[number % len(self.channels)])
        name = self.site.watched[number % len(self.site.watched)]
        stream = stub.WatchTuningJob(pb.WatchTuningJobRequest(name=name), metadata=self.metadata)
        is_open = False
        async for event in stream:
            self.opened += not is_open
            is_open = True
            if event.message.startswith(_SENT):
                self.delays.append(time.time() - float(event.message.removeprefix(_SENT)))

    async def idle(self, seconds: float) -> float:
        """The share of a CPU that the first server takes while nothing happens."""
        server = self.site.servers[0]
        begun, before = time.perf_counter(), cpu_seconds(server)
        await asyncio.sleep(seconds)
        return (cpu_seconds(server) - before) / (time.perf_counter() - begun)

    async def tell(self, seconds: float, pause: float) -> None:
        """Events as another server writes them, one after each pause, each to the next job; until all have come."""
        engine = create_engine_for(self.site.url)
        units = SqlUnitOfWorkFactory(engine)
        end, number = time.perf_counter() + seconds, 0
        each = len(self._tasks) // len(self.site.watched)
        while time.perf_counter() < end:
            job_id = self.site.watched[number % len(self.site.watched)].rpartition("/")[2]
            async with units() as unit:
                job = await unit.jobs.get("acme", job_id, for_update=True)
                assert job is not None
                message = f"{_SENT}{time.time()}"
                await unit.jobs.save(job, [JobEvent(datetime.now(UTC), EventLevel.INFO, message)])
                await unit.commit()
            number += 1
            await asyncio.sleep(pause)
        async with asyncio.timeout(60):
            while len(self.delays) < number * each:
                await asyncio.sleep(0.05)
        await engine.dispose()
