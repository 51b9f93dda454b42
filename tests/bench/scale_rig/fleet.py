"""The rows of a large installation at work, on a PostgreSQL, and the control loops of one server over them."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Table, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.contract.control.platform import Platform
from tests.contract.control.shared import training
from tests.contract.store import samples
from tests.job_cluster_fake import Run
from tests.many_rows import copy
from tests.postgres import PostgresServer
from trellis.server.app.hosts import HostState, RunRequest, RunStatus
from trellis.server.bootstrap import control_loops
from trellis.server.control.loop import ControlLoop
from trellis.server.domain.adapter import Deployment
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import Estimate, JobState
from trellis.server.store import tables
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import migrate
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

_BATCH: Final = 2000
_ESTIMATE: Final = Estimate(accelerators=0.0625, seconds=3600.0, accelerator_seconds=225.0, trained_tokens=1_000_000)


@dataclass(frozen=True, slots=True)
class FleetSize:
    """How large the installation is. Half of the accelerators train, one to a shared trainer; the others serve."""

    accelerators: int
    adapters: int
    """That are deployed."""
    queued: int
    jobs_a_trainer: int = 8
    tenants: int = 200
    bases: int = 50

    @property
    def trainers(self) -> int:
        """Shared trainers that run."""
        return self.accelerators // 2

    @property
    def running(self) -> int:
        """Jobs that run on them."""
        return self.trainers * self.jobs_a_trainer


class Fleet:
    """The installation, and what one server does about it again and again."""

    def __init__(self, platform: Platform, engine: AsyncEngine, size: FleetSize) -> None:
        self._platform = platform
        self._engine = engine
        self.context = platform.app
        self.running_uids = [(f"tenant-{n % size.tenants:05}", f"uid-{n:06}") for n in range(size.running)]
        """The tenant and uid of each job that runs."""
        self.next_report = 1
        """The number that each one's next report must have."""
        self._control = platform.control()
        self.loops: Sequence[ControlLoop] = control_loops(self._control, platform.store, platform.app.key_uses)
        """A server's control loops."""

    async def touch_an_adapter(self) -> None:
        """One adapter goes, as if its tenant had said so: the list of what its replicas shall have at hand is another.

        So much time passes that the lists are looked at.
        """
        self._platform.clock.pass_seconds(6)
        async with self._engine.begin() as connection:
            newest = select(tables.adapters.c.digest).order_by(tables.adapters.c.create_time.desc()).limit(1)
            where = tables.adapters.c.digest.in_(newest)
            await connection.execute(
                update(tables.adapters).where(where).values(deployment=Deployment.UNDEPLOYED, revision=99)
            )


@asynccontextmanager
async def fleet(postgres: PostgresServer, folder: Path, size: FleetSize) -> AsyncIterator[Fleet]:
    """An installation of this size on a database of its own."""
    url = postgres.url(postgres.create_database())
    await migrate(url)
    engine = create_engine_for(url)
    units = SqlUnitOfWorkFactory(engine)
    options = TrainerOptions(cpus=1.0, gpus=1.0)
    platform = Platform(
        units,
        folder,
        capacity_cpus=float(size.accelerators),
        capacity_gpus=float(size.trainers),
        job_gpus=1.0,
        trainers=options,
    )
    await platform.prepare()
    await _make_one_of_each(platform)
    async with engine.begin() as connection:
        await _fill(connection, platform, size)
    async with units(write=False) as unit:
        ids = ["tiny", *(f"base-{number:05}" for number in range(size.bases))]
        bases = [base for base_id in ids if (base := await unit.base_models.get(base_id)) is not None]
    await platform.engines.ensure(bases)
    for base in bases:
        platform.engines.becomes(base.base_model_id, HostState.RUNNING)
    async with engine.connect() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await alone.execute(text("VACUUM ANALYZE"))
    try:
        yield Fleet(platform, engine, size)
    finally:
        await engine.dispose()


async def _make_one_of_each(platform: Platform) -> None:
    """A job that trains on a shared trainer, and an adapter that is deployed: what the others are copies of."""
    await training(platform, 1)
    async with platform.units() as unit:
        await unit.adapters.add(samples.adapter(1, deployment=Deployment.DEPLOYED))
        await unit.commit()


async def _fill(connection: AsyncConnection, platform: Platform, size: FleetSize) -> None:
    await copy(connection, tables.tenants, 0, size.tenants)
    await copy(connection, tables.base_models, 0, size.bases)
    await _trainers(connection, platform, size)
    await _jobs(connection, size)
    each = size.adapters // size.bases
    for number in range(size.bases):
        base = f"baseModels/base-{number:05}"
        await copy(connection, tables.adapters, each * number, each * (number + 1), base_model=base)


async def _trainers(connection: AsyncConnection, platform: Platform, size: FleetSize) -> None:
    row = await _first(connection, tables.trainers)
    rows = []
    for number in range(size.trainers):
        uid, base = f"trainer-{number:05}", f"baseModels/base-{number % size.bases:05}"
        run = f"trellis-trainer-here-{uid}"
        rows.append({**row, "uid": uid, "base_model": base, "token_hash": _hash(uid), "submission_id": run})
        platform.cluster.runs[run] = Run(RunRequest(run, (), {}, 1.0, 1.0, {}), RunStatus.RUNNING)
    await _insert(connection, tables.trainers, rows)


async def _jobs(connection: AsyncConnection, size: FleetSize) -> None:
    jobs = await _first(connection, tables.tuning_jobs)
    attempt = await _first(connection, tables.attempts)
    running, attempts, queued = [], [], []
    estimate = {"estimate": {name: getattr(_ESTIMATE, name) for name in _ESTIMATE.__slots__}}
    for number in range(size.running + size.queued):
        tenant = f"tenant-{number % size.tenants:05}"
        uid = f"uid-{number:06}"
        of = {**jobs, "uid": uid, "job_id": f"job-{number:06}", "tenant": tenant, **estimate}
        if number < size.running:
            running.append(of)
            trainer = f"trainer-{number % size.trainers:05}"
            mine = {"job_uid": uid, "tenant": tenant, "token_hash": _hash(uid), "submission_id": uid}
            attempts.append({**attempt, **mine, "trainer_uid": trainer})
        else:
            queued.append({**of, "state": JobState.QUEUED, "attempt_count": 0, "start_time": None})
    await _insert(connection, tables.tuning_jobs, [*running, *queued])
    await _insert(connection, tables.attempts, attempts)


async def _first(connection: AsyncConnection, table: Table) -> Mapping[str, Any]:
    return dict((await connection.execute(select(table).limit(1))).mappings().one())


async def _insert(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    for first in range(0, len(rows), _BATCH):
        await connection.execute(insert(table), [dict(row) for row in rows[first : first + _BATCH]])


def _hash(text_: str) -> str:
    return hashlib.sha256(text_.encode()).hexdigest()
