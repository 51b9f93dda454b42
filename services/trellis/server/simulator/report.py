"""What a simulation shows: how full the platform was, who waited how long, and whether it was fair."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trellis.server.simulator.simulation import JobRecord, Record

_SLOWDOWN_FLOOR = 10.0
"""Seconds; shorter jobs count as this long, so that a blink that waited is no outlier (bounded slowdown, Feitelson 1998)."""
_LEAST_DUE = 0.01
"""Tenants that were due less than this part of what waits count for nothing in the fairness error: one job decides there."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A few numbers for many."""

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """None of nothing."""
        found = sorted(values)
        return cls(*(quantile(found, part) for part in (0.5, 0.95, 0.99, 1.0))) if found else None


@dataclass(frozen=True, slots=True)
class TenantReport:
    """How it went for a tenant; times in seconds."""

    tenant: str
    weight: float
    jobs: int
    wait: Spread | None
    slowdown: Spread | None
    """Wait and run over run."""
    accelerator_hours: float
    share_over_due: float | None
    """What it had while its jobs waited for capacity, over what its weight gives it among the tenants that did too; None
    where it never competed."""


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """How a simulation went; times in seconds of the simulated platform but for `decision`, in seconds of this machine."""

    jobs: int
    tenants: int
    accelerators: float
    hours: float
    """From the first submit to the last end."""
    utilisation: float
    """Over that time."""
    busy_utilisation: float | None
    """While jobs waited."""
    wait: Spread | None
    slowdown: Spread | None
    fairness_error: float | None
    """The mean over tenants of |had − due| / due, weighted by what they were due."""
    worst_fairness_error: float | None
    preemptions: int
    preempted_jobs: int
    most_preemptions: int
    """Of one job."""
    lost_hours: float
    """Accelerator-hours of work that preemptions cost."""
    overtakers: int
    """Jobs that started before an older one of their tenant with no lower priority, by backfill."""
    unfinished: int
    """Jobs that never ended: starved, if not refused."""
    refused: int
    longest_wait: float
    longest_waiter: str
    decisions: int
    decision: Spread | None
    most_waiting: int
    by_tenant: tuple[TenantReport, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


def report_of(record: Record) -> SimulationReport:
    """Sum up a simulation."""
    jobs = list(record.jobs.values())
    mine = defaultdict(list)
    for job in jobs:
        mine[job.job.tenant].append(job)
    errors = _fairness(record)
    due = {tenant: record.turnouts[tenant].due for tenant in errors}
    waits = [(job.wait, job.job.job) for job in jobs if job.wait is not None]
    longest = max(waits, default=(0.0, ""))
    preemptions = [max(0, len(job.starts) - 1) for job in jobs]
    begin = min(job.job.submit for job in jobs)
    return SimulationReport(
        jobs=len(jobs),
        tenants=len(mine),
        accelerators=record.trace.platform.accelerators,
        hours=(record.end - begin) / 3600,
        utilisation=record.used_seconds / max(1e-9, record.end - begin),
        busy_utilisation=_busy(record),
        wait=Spread.of(wait for wait, _ in waits),
        slowdown=Spread.of(_slowdowns(jobs)),
        fairness_error=sum(errors[one] * due[one] for one in errors) / sum(due.values()) if errors else None,
        worst_fairness_error=max(errors.values(), default=None),
        preemptions=sum(preemptions),
        preempted_jobs=sum(count > 0 for count in preemptions),
        most_preemptions=max(preemptions),
        lost_hours=sum(job.lost * _accelerators(job, record) for job in jobs) / 3600,
        overtakers=sum(job.overtook for job in jobs),
        unfinished=sum(job.end is None and not job.refused for job in jobs),
        refused=sum(job.refused for job in jobs),
        longest_wait=longest[0],
        longest_waiter=longest[1],
        decisions=len(record.decision_seconds),
        decision=Spread.of(record.decision_seconds),
        most_waiting=max((sample.waiting for sample in record.samples), default=0),
        by_tenant=tuple(_tenant(record, one.tenant, one.weight, mine[one.tenant]) for one in record.trace.tenants),
    )


def quantile(ordered: Sequence[float], part: float) -> float:
    """Of sorted values, linear between neighbours."""
    at = part * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _fairness(record: Record) -> Mapping[str, float]:
    turnouts = {tenant: one for tenant, one in record.turnouts.items() if one.due > 0}
    total = sum(one.due for one in turnouts.values())
    return {
        tenant: abs(one.had - one.due) / one.due for tenant, one in turnouts.items() if one.due >= _LEAST_DUE * total
    }


def _tenant(record: Record, tenant: str, weight: float, jobs: Sequence[JobRecord]) -> TenantReport:
    turnout = record.turnouts.get(tenant)
    return TenantReport(
        tenant=tenant,
        weight=weight,
        jobs=len(jobs),
        wait=Spread.of(job.wait for job in jobs if job.wait is not None),
        slowdown=Spread.of(_slowdowns(jobs)),
        accelerator_hours=sum(job.job.seconds * _accelerators(job, record) for job in jobs if job.end) / 3600,
        share_over_due=turnout.had / turnout.due if turnout and turnout.due > 0 else None,
    )


def _slowdowns(jobs: Iterable[JobRecord]) -> list[float]:
    done = ((job.end - job.job.submit, job.job.seconds) for job in jobs if job.end is not None)
    return [max(1.0, stay / max(_SLOWDOWN_FLOOR, seconds)) for stay, seconds in done]


def _accelerators(job: JobRecord, record: Record) -> float:
    platform = record.trace.platform
    return job.job.accelerators or platform.trainer_accelerators / platform.trainer_jobs


def _busy(record: Record) -> float | None:
    """The mean of what was used from one decision to the next, over those after which jobs waited."""
    spans = [
        (after.at - before.at, before.used)
        for before, after in zip(record.samples, record.samples[1:], strict=False)
        if before.waiting
    ]
    total = sum(span for span, _ in spans)
    return math.fsum(span * used for span, used in spans) / total if total else None
