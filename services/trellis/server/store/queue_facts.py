"""What a scheduler's decision depends on, read for all jobs and tenants at once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, func, or_, select, tuple_, update

from trellis.server.app.queue_ports import JobHold, Reading, ReportedVersion
from trellis.server.domain.dataset import DatasetVersion, Report
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.tuning_job import ACTIVE, JobEvent, JobState, QueueReason
from trellis.server.store import tables
from trellis.server.store.in_play import tenants_in_play
from trellis.server.store.job_events import event_row
from trellis.server.store.rows import named
from trellis.server.store.tenants import read_tenant
from trellis.server.store.transaction import Rows, for_update
from trellis.server.store.tuning_jobs import written_reason

_j = tables.tuning_jobs.c
_t = tables.tenants.c
_c = tables.checkpoints.c
_h = tables.holds.c


_v = tables.dataset_versions.c
_r = tables.reports.c
_KEY = (_r.tenant, _r.dataset_id, _r.sha256, _r.base_model)
_AT_ONCE = 2000
"""So many datasets are asked for in one statement, as databases take only so many parameters."""
_VERSION = tuple(column.label(f"version_{column.name}") for column in _v)
_REPORT = tuple(column.label(f"report_{column.name}") for column in _r if not column.name.startswith("claim_"))


def _reported() -> Select[Any]:
    same = and_(_v.tenant == _r.tenant, _v.dataset_id == _r.dataset_id, _v.sha256 == _r.sha256)
    return select(*_VERSION, *_REPORT).join_from(tables.reports, tables.dataset_versions, same)


def _read_reported(row: Row[Any]) -> tuple[Reading, ReportedVersion]:
    values = named(row)
    version = DatasetVersion(**_part(values, "version_"))
    report = Report(**_part(values, "report_"))
    key = Reading(report.tenant, report.dataset_id, report.sha256, report.base_model)
    return key, ReportedVersion(version, report)


def _part(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


class SqlQueueFacts(Rows):
    """See queue_ports.QueueFacts."""

    async def _tell(self, told: Mapping[str, JobEvent]) -> None:
        wanted, counts = sorted(told), dict[str, int]()
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            waiting = select(_j.uid, _j.event_count).where(_j.uid.in_(some), _j.state == JobState.QUEUED)
            rows = await self._transaction.rows(for_update(waiting.order_by(_j.uid)))
            counts |= {row.uid: row.event_count + 1 for row in rows}
        one_more = update(tables.tuning_jobs).where(_j.uid == bindparam("the_uid"))
        moved = [{"the_uid": uid, "the_count": count} for uid, count in counts.items()]
        await self._transaction.change_all(one_more.values(event_count=bindparam("the_count")), moved)
        events = [event_row(uid, count, told[uid]) for uid, count in counts.items()]
        await self._transaction.append(tables.job_events, events)

    async def tenants(self) -> Sequence[Tenant]:
        cohorts = select(_t.cohort).where(_t.tenant_id.in_(tenants_in_play()), _t.cohort != "")
        concerned = or_(_t.tenant_id.in_(tenants_in_play()), _t.cohort.in_(cohorts))
        return [read_tenant(row) for row in await self._transaction.rows(select(tables.tenants).where(concerned))]

    async def reports(self, readings: Collection[Reading]) -> Mapping[Reading, ReportedVersion]:
        found: dict[Reading, ReportedVersion] = {}
        wanted = sorted(readings, key=astuple)
        for start in range(0, len(wanted), _AT_ONCE):
            keys = [astuple(one) for one in wanted[start : start + _AT_ONCE]]
            rows = await self._transaction.rows(_reported().where(tuple_(*_KEY).in_(keys)))
            found |= dict(map(_read_reported, rows))
        return found

    async def saved_times(self) -> Mapping[str, datetime]:
        of_active = select(_c.job_uid, func.max(_c.create_time).label("time")).join_from(
            tables.tuning_jobs, tables.checkpoints, (_c.job_uid == _j.uid) & (_c.attempt == _j.attempt_count)
        )
        statement = of_active.where(_j.state.in_(sorted(ACTIVE))).group_by(_c.job_uid)
        return {row.job_uid: row.time for row in await self._transaction.rows(statement)}

    async def held(self, states: Collection[JobState]) -> Sequence[JobHold]:
        statement = select(tables.holds).join(tables.tuning_jobs, _h.job_uid == _j.uid)
        rows = await self._transaction.rows(statement.where(_j.state.in_(sorted(states)), _h.quantity > 0))
        return [JobHold(**named(row)) for row in rows]

    async def save_reasons(self, reasons: Mapping[str, QueueReason], told: Mapping[str, JobEvent]) -> None:
        # The one column alone, of those that still wait: whoever has locked a row writes the whole of it.
        waits = update(tables.tuning_jobs).where(_j.uid == bindparam("the_uid"), _j.state == JobState.QUEUED)
        await self._tell(told)
        rows = [{"the_uid": uid, "the_reason": written_reason(reason)} for uid, reason in sorted(reasons.items())]
        await self._transaction.change_all(waits.values(queue_reason=bindparam("the_reason")), rows)
