"""Jobs' events in the database."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select

from trellis.server.domain.tuning_job import Checkpoint, JobEvent, JobState, MetricPoint, Progress
from trellis.server.store import tables
from trellis.server.store.transaction import Rows

_e = tables.job_events.c


def _read(row: Row[Any]) -> JobEvent:
    detail = row.detail
    return JobEvent(
        time=row.time,
        level=row.level,
        message=row.message,
        state=JobState(detail["state"]) if "state" in detail else None,
        progress=Progress(**detail["progress"]) if "progress" in detail else None,
        metrics=_read_metrics(detail["metrics"]) if "metrics" in detail else None,
        checkpoint=_read_checkpoint(detail["checkpoint"]) if "checkpoint" in detail else None,
        sequence=row.sequence,
    )


def _detail(event: JobEvent) -> dict[str, Any]:
    detail: dict[str, Any] = {}
    if event.state:
        detail["state"] = event.state
    if event.progress:
        detail["progress"] = asdict(event.progress)
    if event.metrics:
        point = event.metrics
        detail["metrics"] = {"step": point.step, "values": dict(point.values), "time": point.time.isoformat()}
    if event.checkpoint:
        detail["checkpoint"] = asdict(event.checkpoint) | {"create_time": event.checkpoint.create_time.isoformat()}
    return detail


def _read_metrics(values: Mapping[str, Any]) -> MetricPoint:
    return MetricPoint(values["step"], values["values"], datetime.fromisoformat(values["time"]))


def _read_checkpoint(values: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(**{**values, "create_time": datetime.fromisoformat(values["create_time"])})


def event_row(uid: str, sequence: int, event: JobEvent) -> dict[str, Any]:
    """The columns of a job's event."""
    return {
        "job_uid": uid,
        "sequence": sequence,
        "time": event.time,
        "level": event.level,
        "message": event.message,
        "detail": _detail(event),
    }


class EventRows(Rows):
    """The part of ports.TuningJobs about events."""

    async def events(self, uid: str, after_sequence: int, limit: int) -> Sequence[JobEvent]:
        after = select(tables.job_events).where(_e.job_uid == uid, _e.sequence > after_sequence)
        return [_read(row) for row in await self._transaction.rows(after.order_by(_e.sequence).limit(limit))]

    async def _append_events(self, uid: str, events: Sequence[JobEvent], first: int) -> None:
        rows = [event_row(uid, sequence, event) for sequence, event in enumerate(events, first)]
        await self._transaction.append(tables.job_events, rows)
