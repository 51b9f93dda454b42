"""No orphan: no process, run, file or row of somebody who is no more."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.chaos.faults import ENGINE, TRAINER
from tests.chaos.installation import HEAD, NODE, S3, SERVERS, Installation, command_line
from tests.chaos.settling import until_rest
from trellis.objects import ObjectStore
from trellis.server.app.hosts import RunStatus
from trellis.server.clusters.ray import RayJobCluster
from trellis.server.control.context import ControlContext, ControlSettings
from trellis.server.control.sweep import SweepObjects
from trellis.server.domain.dataset import ReportState
from trellis.server.domain.trainer import TrainerState
from trellis.server.domain.tuning_job import ENDED
from trellis.server.store.tables.adapters import adapters
from trellis.server.store.tables.data import dataset_versions, reports, uploads
from trellis.server.store.tables.jobs import attempts, checkpoints, trainers, tuning_jobs
from trellis.server.store.tables.platform import leases
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory
from trellis.server.world import RandomIds, SystemClock, ThreadedObjects

_SECONDS = 240.0
"""So long the platform may take to clear away what the faults left: its loops go round every 2 to 30 seconds."""
_LEASE_SECONDS = 150.0


async def left_faults(there: Installation, database: AsyncEngine, say: Callable[[str], None]) -> list[str]:
    """In sentences."""
    cluster = RayJobCluster(there.ray_ports.dashboard_url, there.ray_token)
    looks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("no attempt, claim or lease of the dead is left", lambda: _rows(database)),
        ("Ray runs what the database says", lambda: _runs(cluster, database)),
        ("no process is left over", lambda: _processes(there, database)),
    ]
    wrong = []
    try:
        for what, look in looks:
            try:
                await until_rest(what, look, say, _SECONDS)
            except AssertionError as error:
                wrong.append(str(error))
    finally:
        await cluster.close()
    return wrong + await _objects(there, database) + _files(there)


async def _rows(database: AsyncEngine) -> str:
    now = datetime.now(UTC)
    ended = select(tuning_jobs.c.uid).where(tuning_jobs.c.state.in_(ENDED))
    queries = {
        "attempts of ended jobs that have not ended": select(attempts.c.submission_id).where(
            attempts.c.end_time.is_(None), attempts.c.job_uid.in_(ended)
        ),
        "attempts that are not cleared away": select(attempts.c.submission_id).where(attempts.c.cleaned_up.is_(False)),
        "trainers that are not cleared away": select(trainers.c.uid).where(
            trainers.c.state == TrainerState.ENDED, trainers.c.cleaned_up.is_(False)
        ),
        "claims of jobs": select(tuning_jobs.c.job_id).where(tuning_jobs.c.claim_expire_time > now),
        "claims of reports": select(reports.c.sha256).where(reports.c.claim_expire_time > now),
        "reports to be made": select(reports.c.sha256).where(reports.c.state == ReportState.PENDING),
        "uploads that nobody goes on with": select(uploads.c.sha256).where(
            uploads.c.update_time < now - timedelta(days=1)
        ),
        "leases that ended long ago": select(leases.c.name).where(
            leases.c.expire_time < now - timedelta(seconds=_LEASE_SECONDS), leases.c.name.in_(("board", "deploy"))
        ),
    }
    found = []
    async with database.connect() as connection:
        for what, query in queries.items():
            if rows := (await connection.execute(query)).scalars().all():
                found.append(f"{what}: {', '.join(map(str, rows))}")
    return "; ".join(found)


async def _runs(cluster: RayJobCluster, database: AsyncEngine) -> str:
    """Every run that has not ended belongs to a trainer that lives, and every trainer that began runs."""
    runs = set(await cluster.list())
    live = await _live_trainers(database)
    known = {trainer.submission_id for trainer in live}
    lost = [
        t.uid for t in live if t.start_time and (await cluster.status(t.submission_id)).status is not RunStatus.RUNNING
    ]
    orphans = [f"the run {run} belongs to nobody" for run in runs - known]
    return "; ".join([*orphans, *(f"the trainer {uid} does not run" for uid in lost)])


async def _processes(there: Installation, database: AsyncEngine) -> str:
    pids = there.pids_of(TRAINER)
    live = await _live_trainers(database)
    found = []
    if len([pid for pid in pids if not _is_shell(there, pid)]) > len(live):
        found.append(f"{len(pids)} processes of trainers run, and {len(live)} trainers live")
    if len(engines := there.pids_of(ENGINE)) != 1:
        found.append(f"{len(engines)} engines run")
    known = {*SERVERS, HEAD, NODE, S3}
    parts = {pid: part for part in known for pid in there.pids(part)}
    if strays := [pid for pid in there.all_pids() if pid not in parts]:
        named = ", ".join(f"{pid} ({command_line(pid)[:120]})" for pid in strays)
        found.append(f"the processes {named} belong to no part")
    counts = {name: len(there.pids(name)) for name in SERVERS}
    return "; ".join([*found, *(f"{name} is {count} processes" for name, count in counts.items() if count != 1)])


def _is_shell(there: Installation, pid: int) -> bool:
    """Whether it is what Ray starts an entry point with, and not the trainer itself."""
    return there.line(pid).startswith(("/bin/sh", "sh ", "/bin/bash"))


async def _live_trainers(database: AsyncEngine) -> list[Row[tuple[object, ...]]]:
    async with database.connect() as connection:
        return list((await connection.execute(select(trainers).where(trainers.c.state != TrainerState.ENDED))).all())


async def _objects(there: Installation, database: AsyncEngine) -> list[str]:
    """After two rounds of the sweep each object belongs to a row, and each row's object is there."""
    store = there.store
    nothing: Any = None  # the sweep asks neither Ray nor the engines
    settings = ControlSettings("", b"", "", "", 0, 0, 0, 0, 0)
    units, objects = SqlUnitOfWorkFactory(database), ThreadedObjects(store)
    context = ControlContext(units, SystemClock(), RandomIds(), nothing, nothing, objects, settings)
    sweep = SweepObjects(context)
    await sweep.once()
    await sweep.once()
    keys = {info.key for info in await context.objects.run("list", "tenants")}
    async with database.connect() as connection:
        files = set((await connection.execute(select(dataset_versions.c.key))).scalars())
        files |= set((await connection.execute(select(reports.c.key))).scalars()) - {""}
        folders = set((await connection.execute(select(adapters.c.key))).scalars())
        folders |= set((await connection.execute(select(checkpoints.c.key))).scalars())
        open_uploads = (await connection.execute(select(func.count()).select_from(uploads))).scalar_one()
    wrong = [f"the object {key} is gone" for key in sorted(files - keys)]
    wrong += [f"nothing is left in {f}" for f in sorted(folders) if not any(key.startswith(f"{f}/") for key in keys)]
    for key in sorted(keys - files):
        if not any(key.startswith(f"{folder}/") for folder in folders) and not (open_uploads and "/uploads/" in key):
            wrong.append(f"no row names the object {key}")
    return wrong + [f"an upload of parts was left open: {key}" for key in _open_parts(store)]


def _open_parts(store: ObjectStore) -> list[str]:
    said = store._fs.call_s3("list_multipart_uploads", Bucket=store.url.split("/")[2])
    return [upload["Key"] for upload in said.get("Uploads", [])]


def _files(there: Installation) -> list[str]:
    usual = {"admin.key", "server.secret", "ray.token", "adapter", S3, *(f"{name}.log" for name in there.children)}
    return [f"the file {path.name} is left" for path in there.folder.iterdir() if path.name not in usual]
