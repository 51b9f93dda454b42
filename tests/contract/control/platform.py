"""A platform whose servers may die between any two steps: all that lasts is the database, the cluster and the objects."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.contract.control.mortal import Fuse, MortalCluster, MortalUnits
from tests.contract.store import samples
from tests.engine_host_fake import FakeEngineHost
from tests.job_cluster_fake import FakeJobCluster

from trellis.objects import ObjectStore
from trellis.server.app.attempts import COMPLETED, Assignment, Process, current_attempt, fail_attempt, start_attempt
from trellis.server.app.authentication import authenticate
from trellis.server.app.context import AppSettings, Context
from trellis.server.app.ports import UnitOfWork, UnitOfWorkFactory
from trellis.server.app.progress import AttemptReport, report_attempt
from trellis.server.app.stopping import pause_tuning_job, preempt_tuning_job, resume_tuning_job
from trellis.server.app.tuning_jobs import cancel_tuning_job
from trellis.server.control.admit import AdmitJobs
from trellis.server.control.board import KeepBoard
from trellis.server.control.context import ControlContext, ControlSettings
from trellis.server.control.launch import LaunchJobs
from trellis.server.control.launch_trainers import LaunchTrainers
from trellis.server.control.loop import Step
from trellis.server.control.reap import ReapOrphans, ReapRuns
from trellis.server.control.reap_trainers import ReapTrainers
from trellis.server.control.stop import StopJobs
from trellis.server.control.watch import WatchAttempts
from trellis.server.control.watch_starts import WatchStarts
from trellis.server.control.watch_trainers import WatchTrainers
from trellis.server.control.watchdog import WatchSteps
from trellis.server.domain.caller import AttemptRef, Caller, Role
from trellis.server.domain.dataset import ReportState
from trellis.server.domain.stop import Stop
from trellis.server.domain.trainer import Trainer
from trellis.server.domain.tuning_job import (
    ACTIVE,
    Attempt,
    EndCause,
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    Progress,
    TuningJob,
)
from trellis.server.world import ThreadedObjects

SETTINGS = ControlSettings(
    worker_endpoint="127.0.0.1:1",
    server_secret=b"s" * 32,
    installation="here",
    python="python",
    capacity_cpus=2.0,
    capacity_gpus=0.0,
    job_cpus=1.0,
    job_gpus=0.0,
    tenant_running_limit=2,
)
LEASE = SETTINGS.lease.total_seconds()
UID = "uid-acme-1"


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime = samples.NOW) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def pass_seconds(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


class FakeIds:
    """Counts."""

    def __init__(self, server: str = "") -> None:
        self._server = server
        self._count = 0

    def new_id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._server}{self._count}"

    def new_secret(self, prefix: str) -> str:
        return self.new_id(prefix)


class Server:
    """One server's loops. It keeps nothing that another one would need."""

    def __init__(self, context: ControlContext) -> None:
        self.context = context
        self.admit = AdmitJobs(context)
        self.board = KeepBoard(context, self.admit.decided)
        self.launch, self.stop = LaunchJobs(context), StopJobs(context)
        self.watch, self.reap, self.orphans = WatchAttempts(context), ReapRuns(context), ReapOrphans(context)
        self.steps_watch = WatchSteps(context)
        self.watch_starts = WatchStarts(context)
        self.launch_trainers, self.watch_trainers = LaunchTrainers(context), WatchTrainers(context)
        self.reap_trainers = ReapTrainers(context)

    @property
    def steps(self) -> Sequence[Step]:
        return (
            *(self.admit, self.launch, self.launch_trainers, self.stop, self.watch, self.watch_trainers),
            *(self.reap, self.reap_trainers, self.orphans, self.steps_watch),
        )

    async def round(self) -> None:
        """Every loop once."""
        for step in self.steps:
            await step.once()


class Platform:
    """What outlives servers, and the clock."""

    def __init__(self, units: UnitOfWorkFactory, folder: Path, **settings: Any) -> None:
        self.units = units
        self.clock = FakeClock()
        self.cluster = FakeJobCluster()
        self.engines = FakeEngineHost()
        self.store = ObjectStore.open(str(folder))
        self.settings = replace(SETTINGS, **settings)
        secret, options = self.settings.server_secret, self.settings.trainers
        told = AppSettings(server_secret=secret, trainers=options)
        self.app = Context(units, self.clock, FakeIds("app"), self.store, self.engines, _no_wait, told)
        self._servers = 0

    async def prepare(self) -> None:
        await samples.seed(self.units)
        async with self.units() as unit:
            await unit.datasets.add_report(replace(samples.report(), state=ReportState.DONE, valid=True))
            await unit.commit()

    def control(self, units: UnitOfWorkFactory | None = None, fuse: Fuse | None = None) -> ControlContext:
        self._servers += 1
        ids = FakeIds(f"server{self._servers}-")
        units, cluster = units or self.units, self.cluster
        objects = ThreadedObjects(self.store)
        if fuse is not None:
            units, cluster = MortalUnits(units, fuse), MortalCluster(cluster, fuse)
        return ControlContext(units, self.clock, ids, cluster, self.engines, objects, self.settings)

    def server(self, units: UnitOfWorkFactory | None = None, fuse: Fuse | None = None) -> Server:
        """A server that has just started, and dies when the fuse has burnt."""
        return Server(self.control(units, fuse))

    async def add_jobs(self, *jobs: TuningJob) -> None:
        async with self.units() as unit:
            for job in jobs:
                await unit.jobs.add(job)
            await unit.commit()

    async def job(self, uid: str = UID) -> TuningJob:
        async with self.units(write=False) as unit:
            found = await unit.jobs.get_by_uid(uid)
        assert found is not None
        return found

    async def attempts(self, uid: str = UID) -> list[Attempt]:
        async with self.units(write=False) as unit:
            return await _attempts(unit, uid)

    async def events(self, uid: str = UID) -> Sequence[JobEvent]:
        async with self.units(write=False) as unit:
            return await unit.jobs.events(uid, 0, 1000)

    async def log(self, uid: str = UID) -> str:
        async with self.units(write=False) as unit:
            return "".join(text for _, _, text in await unit.jobs.read_log(uid, 0, 1000))

    async def cancel(self, number: int = 1) -> None:
        """Its user asks the job to stop."""
        await cancel_tuning_job(self.app, f"tenants/acme/tuningJobs/job-{number}")

    async def pause(self, number: int = 1) -> None:
        """Its user asks the job to pause."""
        await pause_tuning_job(self.app, f"tenants/acme/tuningJobs/job-{number}")

    async def resume(self, number: int = 1) -> None:
        """Its user asks the job to go on."""
        await resume_tuning_job(self.app, f"tenants/acme/tuningJobs/job-{number}")

    async def preempt(self, reason: str = "", number: int = 1) -> None:
        """An admin asks the job to give back its capacity."""
        await preempt_tuning_job(self.app, f"tenants/acme/tuningJobs/job-{number}", reason)

    async def trainers(self) -> Sequence[Trainer]:
        async with self.units(write=False) as unit:
            return await unit.trainers.live()

    async def trainer(self, uid: str) -> Trainer:
        async with self.units(write=False) as unit:
            found = await unit.trainers.get(uid)
        assert found is not None
        return found

    async def caller(self, run: str) -> Caller:
        """Who the run's process is, by the token that it was given."""
        return await authenticate(
            self.app, f"Bearer {self.cluster.runs[run].request.environment['TRELLIS_ATTEMPT_TICKET']}"
        )

    async def caller_of(self, token: str) -> Caller:
        """Who has the attempt's token."""
        async with self.units(write=False) as unit:
            attempt = await unit.jobs.find_attempt(hashlib.sha256(token.encode()).hexdigest())
        assert attempt is not None
        ref = AttemptRef(attempt.tenant, attempt.job_uid, attempt.number)
        return Caller(Role.ATTEMPT, attempt.tenant, "", ref)

    async def begin(self, run: str) -> Assignment:
        """The run's process makes its first call."""
        return await start_attempt(self.app, await self.caller(run), Process("1", "host", 1, "n" * 32))

    async def report(self, run: str, number: int = 1) -> Stop | None:
        """The run's process reports; what it is asked."""
        return await report_attempt(self.app, await self.caller(run), AttemptReport(number))

    async def progress(self, run: str, number: int, *, step: int, phase: str) -> None:
        """The run's process reports how far it has come."""
        report = AttemptReport(number, Progress(step, 1000, phase))
        await report_attempt(self.app, await self.caller(run), report)

    async def fail(self, run: str, cause: EndCause = EndCause.INFRASTRUCTURE) -> None:
        """The run's process says that it failed."""
        error = JobError("TRAINING_FAILED", "The disk is full.")
        await fail_attempt(self.app, await self.caller(run), error, cause)

    async def complete(self, run: str) -> None:
        """The run's process says that it is done; the adapter is left out."""
        await self.complete_as(await self.caller(run))

    async def complete_as(self, caller: Caller) -> None:
        """An attempt is done; the adapter is left out."""
        now = self.clock.now()
        async with self.units() as unit:
            job, attempt = await current_attempt(unit, caller)
            await unit.jobs.save_attempt(replace(attempt, end_time=now, outcome=COMPLETED))
            event = JobEvent(now, EventLevel.INFO, "Done.", state=JobState.SUCCEEDED)
            await unit.jobs.save(job.moved(JobState.SUCCEEDED, now), [event])
            await unit.commit()


async def check_invariants(platform: Platform, uids: Iterable[str]) -> None:
    """What must be true at every moment, whatever has died."""
    assert len(platform.cluster.started) == len(set(platform.cluster.started)), "a run was begun twice"
    held = 0.0
    async with platform.units(write=False) as unit:
        live = {trainer.uid: trainer for trainer in await unit.trainers.live()}
        over = {trainer.uid for trainer in await unit.trainers.to_clean_up(1000)}
        held += sum(trainer.cpus for trainer in live.values())
        for trainer in live.values():
            given = await unit.trainers.open_attempts([trainer.uid])
            assert len(given) <= platform.settings.trainers.max_jobs, "more jobs than a trainer takes"
        for uid in uids:
            job = await unit.jobs.get_by_uid(uid)
            assert job is not None
            events = await unit.jobs.events(uid, 0, 10_000)
            assert [event.sequence for event in events] == list(range(1, job.event_count + 1)), "a gap in the events"
            stated = [event.state for event in events if event.state]
            assert not stated or stated[-1] == job.state, "the last event says another state"
            attempts = await _attempts(unit, uid)
            assert len(attempts) == job.attempt_count
            still_open = [attempt.number for attempt in attempts if not attempt.ended]
            is_active = job.state in ACTIVE
            assert still_open == ([job.attempt_count] if is_active else []), f"{job.state} with attempts {still_open}"
            if is_active and attempts[-1].trainer_uid:
                assert attempts[-1].trainer_uid in {*live, *over}, "on a trainer that nobody watches"
            elif is_active:
                held += platform.settings.job_cpus
    assert held <= platform.settings.capacity_cpus, "more than there is"


async def _attempts(unit: UnitOfWork, uid: str) -> list[Attempt]:
    found: list[Attempt] = []
    while (attempt := await unit.jobs.get_attempt(uid, len(found) + 1)) is not None:
        found.append(attempt)
    return found


async def _no_wait() -> None:
    raise AssertionError("no loop waits for the database")
