"""Jobs' checkpoints: listed, pinned, and let go when they are not needed any more."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from trellis.errors import InvalidArgument, NotFound
from trellis.names import CheckpointName, TuningJobName
from trellis.objects import ObjectStore
from trellis.server.app.audit import record
from trellis.server.app.context import Context
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import Page, UnitOfWork
from trellis.server.app.tuning_jobs import present_job
from trellis.server.domain.retention import surplus
from trellis.server.domain.tuning_job import Checkpoint, TuningJob

COMMIT_FILE = "COMMIT"
"""A checkpoint's marker: written last, deleted first."""
_log = structlog.get_logger(__name__)
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class RatedCheckpoint:
    """A checkpoint, and whether its held-out loss is the least of all that its job has."""

    checkpoint: Checkpoint
    best: bool


async def list_checkpoints(context: Context, parent: str, query: PageQuery) -> Listed[RatedCheckpoint]:
    """A job's committed checkpoints, by step."""
    parsed = TuningJobName.parse(parent, "parent")
    async with context.units(write=False) as unit:
        job = await present_job(unit, parsed)
        best = await unit.jobs.best_checkpoint(job.uid)

        async def fetch(limit: int, cursor: str | None) -> Page[RatedCheckpoint]:
            page = await unit.jobs.checkpoints(job.uid, limit, cursor)
            return Page([RatedCheckpoint(one, one == best) for one in page.items], page.next_cursor)

        return await read_page(f"ListCheckpoints {job.uid}", query, fetch)


async def get_checkpoint(context: Context, name: str) -> RatedCheckpoint:
    """Read a checkpoint."""
    parsed = CheckpointName.parse(name)
    async with context.units(write=False) as unit:
        _, checkpoint = await present_checkpoint(unit, parsed)
        return await _rated(unit, parsed, checkpoint)


async def update_checkpoint(context: Context, name: str, mask: Sequence[str], *, pinned: bool) -> RatedCheckpoint:
    """Pin a checkpoint, or let it go: one that nothing else keeps is deleted at once, and answered as it was last."""
    parsed = CheckpointName.parse(name, "checkpoint.name")
    if unknown := sorted(set(mask) - {"pinned", "*"}):
        raise InvalidArgument.for_field("update_mask", f"{unknown[0][:50]!r} can't be changed, but pinned can.")
    released: Sequence[Checkpoint] = ()
    async with context.units() as unit:
        job, checkpoint = await present_checkpoint(unit, parsed, for_update=True)
        if checkpoint.pinned != pinned:
            before, checkpoint = checkpoint, replace(checkpoint, pinned=pinned)
            await unit.jobs.add_checkpoint(job.uid, checkpoint)
            await record(context, unit, before, checkpoint, name=str(parsed))
            rated = await _rated(unit, parsed, checkpoint)
            released = await release_surplus(unit, job)
            await unit.commit()
        else:
            rated = await _rated(unit, parsed, checkpoint)
    await discard(context.store, released)
    return rated


async def present_checkpoint(
    unit: UnitOfWork, name: CheckpointName, *, for_update: bool = False
) -> tuple[TuningJob, Checkpoint]:
    """The checkpoint and its job, which `for_update` locks; raises NotFound."""
    job = await unit.jobs.get(name.tenant, name.tuning_job, for_update=for_update)
    checkpoint = await unit.jobs.get_checkpoint(job.uid, int(name.checkpoint)) if job else None
    if job is None or checkpoint is None:
        raise NotFound.for_resource(name)
    return job, checkpoint


async def all_checkpoints(unit: UnitOfWork, uid: str) -> list[Checkpoint]:
    """All of a job's checkpoints, by step."""
    found: list[Checkpoint] = []
    cursor: str | None = None
    while True:
        page = await unit.jobs.checkpoints(uid, _PAGE, cursor)
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found


async def keep_checkpoints(unit: UnitOfWork, job: TuningJob, fresh: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Add what was committed, and take out what is not kept any more; whose objects are to be deleted after the commit.

    A step that is done again replaces its checkpoint, which stays pinned.
    """
    replaced: list[Checkpoint] = []
    for checkpoint in fresh:
        before = await unit.jobs.get_checkpoint(job.uid, checkpoint.step)
        if before is not None and before.key != checkpoint.key:
            replaced.append(before)
        await unit.jobs.add_checkpoint(job.uid, replace(checkpoint, pinned=before is not None and before.pinned))
    used = await unit.jobs.checkpoint_keys_in_use(job.tenant) if replaced else frozenset()
    return [one for one in replaced if one.key not in used] + await release_surplus(unit, job)


async def release_surplus(unit: UnitOfWork, job: TuningJob) -> list[Checkpoint]:
    """Take out the rows of what is not kept any more, but for what another job or an export reads.

    The newest one always stays, and so does what the job's attempt resumes from: it commits nothing before it has read.
    """
    found = surplus(await all_checkpoints(unit, job.uid))
    if not found:
        return []
    used = await unit.jobs.checkpoint_keys_in_use(job.tenant)
    released = [one for one in found if one.key not in used]
    for checkpoint in released:
        await unit.jobs.delete_checkpoint(job.uid, checkpoint.step)
    return released


async def discard(store: ObjectStore, checkpoints: Iterable[Checkpoint]) -> None:
    """Delete the objects of checkpoints that have no row any more. What can't be deleted now, the sweep deletes."""
    for checkpoint in checkpoints:
        try:
            await asyncio.to_thread(_delete, store, checkpoint.key)
        except OSError as error:
            _log.warning("checkpoint_not_deleted", key=checkpoint.key, why=str(error))


def _delete(store: ObjectStore, key: str) -> None:
    store.delete(f"{key}/{COMMIT_FILE}")
    store.delete_prefix(key)


async def _rated(unit: UnitOfWork, name: CheckpointName, checkpoint: Checkpoint) -> RatedCheckpoint:
    job = await present_job(unit, TuningJobName(name.tenant, name.tuning_job))
    return RatedCheckpoint(checkpoint, checkpoint == await unit.jobs.best_checkpoint(job.uid))
