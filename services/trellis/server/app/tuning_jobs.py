"""Tuning jobs: submitted, read, cancelled, deleted."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trellis.errors import NotFound, Reason, error_for
from trellis.names import ALL_TENANTS, TenantName, TuningJobName
from trellis.server.app import keys
from trellis.server.app.audit import record
from trellis.server.app.context import Context
from trellis.server.app.etags import check_etag
from trellis.server.app.holds import release
from trellis.server.app.metrics import count_job
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.tuning_job import (
    EndCause,
    EventLevel,
    JobEvent,
    JobState,
    MetricPoint,
    TuningJob,
)


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of a job's log; `next_offset` resumes after it."""

    text: str
    attempt: int
    next_offset: int


async def get_tuning_job(context: Context, name: str) -> TuningJob:
    """Read a job."""
    parsed = TuningJobName.parse(name)
    async with context.units(write=False, snapshot=False) as unit:
        (job,) = await context.board.placed(unit, [await present_job(unit, parsed)], context.now())
        return job


async def list_tuning_jobs(
    context: Context, parent: str, states: Sequence[JobState], query: PageQuery
) -> Listed[TuningJob]:
    """A tenant's jobs, or with `tenants/-` everybody's, newest first."""
    tenant = None if parent == ALL_TENANTS else TenantName.parse(parent, "parent").tenant
    async with context.units(write=False, snapshot=False) as unit:
        if tenant is not None:
            await present_tenant(unit, tenant)
        listed = await read_page(
            f"ListTuningJobs {parent} {sorted(set(states))}",
            query,
            lambda limit, cursor: unit.jobs.list(tenant, states, limit, cursor),
        )
        return replace(listed, items=await context.board.placed(unit, listed.items, context.now()))


async def cancel_tuning_job(context: Context, name: str) -> TuningJob:
    """Ask a job to stop. One that waits or is paused is cancelled at once; one that has ended, or is stopping, stays as it is."""
    parsed = TuningJobName.parse(name)
    async with context.units() as unit:
        job = await present_job(unit, parsed, for_update=True)
        if job.ended or job.state is JobState.CANCELLING:
            return job
        now = context.now()
        waits = job.state in {JobState.QUEUED, JobState.PAUSED}
        state = JobState.CANCELLED if waits else JobState.CANCELLING
        message = "The job was cancelled." if waits else "The job was asked to stop."
        if waits:
            await release(unit, job, now)
        count_job(state, EndCause.CANCELLED)
        saved = await unit.jobs.save(job.moved(state, now), [JobEvent(now, EventLevel.INFO, message, state=state)])
        await record(context, unit, job, saved)
        await unit.commit()
    return saved


async def delete_tuning_job(context: Context, name: str, etag: str) -> None:
    """Delete a job that has ended, with all that it kept; its adapter stays."""
    parsed = TuningJobName.parse(name)
    async with context.units() as unit:
        job = await present_job(unit, parsed, for_update=True)
        check_etag(etag, name, job.create_time, job.revision)
        if not job.ended:
            message = f"{name} is {job.state}. Cancel it, and delete it when it has ended."
            raise error_for(Reason.INVALID_STATE, message, metadata={"state": job.state.value})
        await _require_unread(unit, job)
        await unit.jobs.delete(parsed.tenant, parsed.tuning_job)
        await record(context, unit, job, None)
        await unit.commit()
    await asyncio.to_thread(context.store.delete_prefix, keys.job_prefix(parsed.tenant, job.uid))


async def _require_unread(unit: UnitOfWork, job: TuningJob) -> None:
    prefix = keys.checkpoint_prefix(job.tenant, job.uid) + "/"
    if any(key.startswith(prefix) for key in await unit.jobs.checkpoint_keys_in_use(job.tenant)):
        users = "a job that starts from one of its checkpoints, or an export of one, which has not ended"
        message = f"{job.name} is in use by {users}."
        raise error_for(Reason.RESOURCE_IN_USE, message, metadata={"used_by": users})


async def list_metrics(context: Context, parent: str, query: PageQuery) -> Listed[MetricPoint]:
    """A job's metrics, by step."""
    parsed = TuningJobName.parse(parent, "parent")
    async with context.units(write=False) as unit:
        job = await present_job(unit, parsed)
        return await read_page(
            f"ListTuningJobMetrics {job.uid}",
            query,
            lambda limit, cursor: unit.jobs.metrics(job.uid, limit, cursor),
            default=1000,
            most=10_000,
        )


async def present_job(unit: UnitOfWork, name: TuningJobName, *, for_update: bool = False) -> TuningJob:
    """The job; raises NotFound."""
    job = await unit.jobs.get(name.tenant, name.tuning_job, for_update=for_update)
    if job is None:
        raise NotFound.for_resource(name)
    return job
