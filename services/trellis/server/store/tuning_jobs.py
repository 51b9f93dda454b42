"""Tuning jobs in the database."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, func, select, union_all, update

from trellis.errors import NotFound
from trellis.server.app.bell import in_state
from trellis.server.app.ports import Claim, Page
from trellis.server.domain.tuning_job import (
    Estimate,
    Evaluation,
    JobError,
    JobEvent,
    JobState,
    Progress,
    QueueCode,
    QueueReason,
    TenantQueue,
    TuningJob,
)
from trellis.server.store import tables
from trellis.server.store.attempts import AttemptRows
from trellis.server.store.checkpoints import CheckpointRows
from trellis.server.store.claims import HELD_BY_NOBODY, held_by, is_free
from trellis.server.store.failures import already_exists
from trellis.server.store.job_events import EventRows
from trellis.server.store.job_logs import LogRows
from trellis.server.store.job_metrics import MetricRows
from trellis.server.store.marks import JobMarkRows
from trellis.server.store.pages import Keyset
from trellis.server.store.transaction import Transaction, for_update as locked
from trellis.spec import TrainSpec

_j = tables.tuning_jobs.c
_OLDEST_FIRST = Keyset((_j.create_time, _j.uid))
_NEWEST_FIRST = Keyset((_j.create_time, _j.uid), descending=True)
_QUEUE_LOCK = 0x7472_0002
_SAME = (
    *("tenant", "job_id", "uid", "display_name", "state", "alias_id", "deploy", "adapter_digest", "attempt_count"),
    *("failure_count", "memory_halvings", "decline_count", "used_tokens", "used_seconds", "export_id", "stop_time"),
    *("priority", "preemption_count", "traceparent", "adapted_share"),
    *("create_time", "update_time", "retry_time", "start_time", "cancel_time", "end_time", "revision"),
)
"""The columns that are the domain's fields as they are."""


_spec = functools.lru_cache(maxsize=12_000)(TrainSpec.from_json)
"""Specs hardly ever change, and the scheduler reads those of all queued jobs again and again."""


def _read(row: Row[Any]) -> TuningJob:
    reason, error = row.queue_reason, row.error
    return TuningJob(
        **{name: getattr(row, name) for name in _SAME},
        spec=_spec(row.spec),
        queue_reason=QueueReason(QueueCode(reason["code"]), reason["message"], reason["position"]) if reason else None,
        progress=Progress(**row.progress),
        error=JobError(**error) if error else None,
        estimate=Estimate(**row.estimate) if row.estimate else None,
        base_evaluation=Evaluation(**row.base_evaluation) if row.base_evaluation else None,
        tuned_evaluation=Evaluation(**row.tuned_evaluation) if row.tuned_evaluation else None,
        warnings=tuple(row.warnings or ()),
        event_count=row.event_count,
    )


def written_reason(reason: QueueReason) -> dict[str, Any]:
    """The column's value: all but what is told by the board."""
    return {"code": reason.code, "message": reason.message, "position": reason.position}


def _write(job: TuningJob) -> dict[str, Any]:
    # event_count and log_size are the rows' own: only appending moves them.
    return {
        **{name: getattr(job, name) for name in _SAME},
        "spec": job.spec.to_json(),
        "base_model": job.spec.base_model,
        "training_dataset": job.spec.training_dataset,
        "validation_dataset": job.spec.validation_dataset,
        "queue_reason": written_reason(job.queue_reason) if job.queue_reason else None,
        "progress": asdict(job.progress),
        "error": asdict(replace(job.error, metadata=dict(job.error.metadata))) if job.error else None,
        "estimate": asdict(job.estimate) if job.estimate else None,
        "base_evaluation": asdict(job.base_evaluation) if job.base_evaluation else None,
        "tuned_evaluation": asdict(job.tuned_evaluation) if job.tuned_evaluation else None,
        "warnings": list(job.warnings) or None,
    }


_MOST_KEPT = 20_000
_kept: dict[str, tuple[Row[Any], TuningJob]] = {}
"""By uid: rows that were read, and what they say. A job is made of its row alone, so that equal rows are equal jobs."""


def _read_again(row: Row[Any]) -> TuningJob:
    """The job of a row that is read again and again by loops; most have not changed since."""
    known = _kept.get(row.uid)
    if known is not None and known[0] == row:
        return known[1]
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    job = _read(row)
    _kept[row.uid] = row, job
    return job


class SqlTuningJobs(EventRows, AttemptRows, MetricRows, CheckpointRows, LogRows, JobMarkRows):
    """See ports.TuningJobs."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._locked: set[str] = set()
        """The uids that were read for update in this transaction."""

    async def add(self, job: TuningJob, events: Sequence[JobEvent] = ()) -> TuningJob:
        assert job.event_count == 0, "a new job has the events that are given"
        values = {**_write(job), "event_count": len(events), "log_size": 0}
        if not await self._transaction.add(tables.tuning_jobs, values):
            raise already_exists(job.name)
        self._transaction.touched.add(in_state(job.state))
        self._locked.add(job.uid)
        await self._append_events(job.uid, events, first=1)
        return replace(job, event_count=len(events))

    async def get(self, tenant: str, job_id: str, *, for_update: bool = False) -> TuningJob | None:
        return await self._get([_j.tenant == tenant, _j.job_id == job_id], for_update)

    async def get_by_uid(self, uid: str, *, for_update: bool = False) -> TuningJob | None:
        return await self._get([_j.uid == uid], for_update)

    async def list(
        self, tenant: str | None, states: Sequence[JobState], limit: int, cursor: str | None
    ) -> Page[TuningJob]:
        of_tenant = [] if tenant is None else [_j.tenant == tenant]
        statement = _in_order(of_tenant, states, _NEWEST_FIRST, limit, cursor)
        return _NEWEST_FIRST.page(await self._transaction.rows(statement), limit, _read)

    async def in_states(self, states: Sequence[JobState], limit: int) -> Sequence[TuningJob]:
        rows = await self._transaction.rows(_in_order([], states, _OLDEST_FIRST, limit, None))
        return [_read_again(row) for row in rows[:limit]]

    async def counts(self) -> dict[JobState, int]:
        grouped = select(_j.state, func.count().label("jobs")).group_by(_j.state)
        found = {row.state: row.jobs for row in await self._transaction.rows(grouped)}
        return {state: found.get(state, 0) for state in JobState}

    async def queued_by_tenant(self) -> Sequence[TenantQueue]:
        grouped = select(_j.tenant, func.count().label("jobs"), func.min(_j.create_time).label("oldest"))
        statement = grouped.where(_j.state == JobState.QUEUED).group_by(_j.tenant)
        return [TenantQueue(row.tenant, row.jobs, row.oldest) for row in await self._transaction.rows(statement)]

    async def save(self, job: TuningJob, events: Sequence[JobEvent] = ()) -> TuningJob:
        assert job.uid in self._locked, f"{job.name} was not read for update in this unit of work"
        count = await self._transaction.change_returning(
            update(tables.tuning_jobs)
            .where(_j.uid == job.uid)
            .values({**_write(job), "event_count": _j.event_count + len(events)})
            .returning(_j.event_count)
        )
        if count is None:
            raise NotFound.for_resource(job.name)
        self._transaction.touched.update((job.uid, in_state(job.state)))
        await self._append_events(job.uid, events, first=count - len(events) + 1)
        return replace(job, event_count=count)

    async def delete(self, tenant: str, job_id: str) -> None:
        await self._transaction.change(delete(tables.tuning_jobs).where(_j.tenant == tenant, _j.job_id == job_id))

    async def claim(self, states: Sequence[JobState], claim: Claim, now: datetime, limit: int) -> Sequence[TuningJob]:
        rows: list[Row[Any]] = []
        for state in dict.fromkeys(states):  # one look into the index each
            free = select(tables.tuning_jobs).where(_j.state == state, is_free(tables.tuning_jobs, now))
            in_order = free.order_by(_j.create_time, _j.uid).limit(limit)
            rows += await self._transaction.rows(locked(in_order, skip_locked=True))
        jobs = [_read(row) for row in sorted(rows, key=lambda row: (row.create_time, row.uid))[:limit]]
        if jobs:
            uids = [job.uid for job in jobs]
            await self._transaction.change(update(tables.tuning_jobs).where(_j.uid.in_(uids)).values(held_by(claim)))
            self._locked.update(uids)
        return jobs

    async def holds(self, uid: str, claim: Claim) -> bool:
        statement = select(_j.uid).where(_j.uid == uid, _j.claim_token == claim.token)
        return await self._transaction.row(statement) is not None

    async def release(self, uid: str, claim: Claim) -> None:
        held = update(tables.tuning_jobs).where(_j.uid == uid, _j.claim_token == claim.token)
        await self._transaction.change(held.values(HELD_BY_NOBODY))

    async def lock_queue(self) -> None:
        await self._transaction.lock(_QUEUE_LOCK)

    async def _get(self, where: Sequence[ColumnElement[bool]], for_update: bool) -> TuningJob | None:
        statement = select(tables.tuning_jobs).where(*where)
        row = await self._transaction.row(locked(statement) if for_update else statement)
        if row is None:
            return None
        if for_update:
            self._locked.add(row.uid)
        return _read(row)


def _in_order(
    where: Sequence[ColumnElement[bool]], states: Sequence[JobState], keyset: Keyset, limit: int, cursor: str | None
) -> Select[Any]:
    """The first rows of all these states: the first ones of each state, each from its index, merged."""
    jobs = select(tables.tuning_jobs).where(*where)
    if not states:
        return keyset.select(jobs, limit, cursor)
    parts = [keyset.select(jobs.where(_j.state == state), limit, cursor) for state in dict.fromkeys(states)]
    if len(parts) == 1:
        return parts[0]
    merged = union_all(*(select(part.subquery()) for part in parts)).subquery()
    columns = tuple(merged.c[column.name] for column in keyset.columns)
    return Keyset(columns, keyset.descending).select(select(merged), limit, None)
