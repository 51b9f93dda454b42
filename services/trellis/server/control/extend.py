"""Extends what is held for running jobs of tenants with a hard budget, and has jobs give way when there is no more."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from trellis.errors import Reason
from trellis.names import TenantName
from trellis.server.app.attempt_end import end_attempt
from trellis.server.app.attempt_usage import measured
from trellis.server.app.audit import record
from trellis.server.app.budgets import BudgetState, budget_states
from trellis.server.app.holds import estimated, extend, part_left
from trellis.server.app.ledger_reading import Sums
from trellis.server.app.ports import UnitOfWork
from trellis.server.control.context import ControlContext
from trellis.server.control.metrics import HOLDS_EXTENDED
from trellis.server.domain.ledger import Meter
from trellis.server.domain.quota import BudgetMeter, Quota
from trellis.server.domain.running_hold import Patience, RunningHold, Verdict, judged
from trellis.server.domain.tuning_job import (
    STOPPING,
    Attempt,
    EndCause,
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    TuningJob,
)

_log = structlog.get_logger(__name__)
_BATCH: Final = 10_000
LOOK_SECONDS: Final = 5.0
"""Between two looks."""
_STATES: Final = (JobState.RUNNING, *sorted(STOPPING))
_BUDGET_OF: Final[Mapping[Meter, BudgetMeter]] = {
    Meter.ACCELERATOR_MILLISECONDS: BudgetMeter.ACCELERATOR_SECONDS,
    Meter.TRAINED_TOKENS: BudgetMeter.TOKENS,
}


@dataclass(frozen=True, slots=True)
class _Running:
    """A job with a process, and the attempt that is it."""

    job: TuningJob
    attempt: Attempt


class ExtendHolds:
    """A look at each running job of a tenant with a hard budget.

    What is held for it is extended, in steps and before it is used up, under the lock under which jobs are admitted: what
    is settled and held together never passes the budget. A job for which no more can be held gives way, and waits for the
    next period.
    """

    name = "extend_holds"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at all of them."""
        async with self._context.units(write=False) as unit:
            quotas = await _hard(unit)
            if not quotas:
                return False
            held: dict[str, dict[Meter, int]] = defaultdict(dict)
            for one in await unit.queue.held(_STATES):
                held[one.job_uid][one.meter] = one.quantity
            attempts = {attempt.job_uid: attempt for attempt in await unit.jobs.open_attempts(_BATCH)}
            jobs = [job for job in await unit.jobs.in_states(_STATES, _BATCH) if job.tenant in quotas]
        looks = [_Running(job, attempts[job.uid]) for job in jobs if job.uid in attempts]
        short = [one.job.uid for one in looks if self._is_short(one, held[one.job.uid], quotas[one.job.tenant])]
        if short:
            await self._extend(short)
        return False

    def _is_short(self, one: _Running, held: Sums, quota: Quota) -> bool:
        return any(
            judged(hold, 0, self._patience) != Verdict() for hold in self._holds_of(one, held, _limited(quota)).values()
        )

    async def _extend(self, uids: Sequence[str]) -> None:
        async with self._context.units() as unit:
            await unit.jobs.lock_queue()  # jobs are admitted under it: nobody else takes from the budgets meanwhile
            quotas = await _hard(unit)
            states = await budget_states(unit, quotas, self._context.now())
            left = {tenant: _left(of_tenant) for tenant, of_tenant in states.items()}
            # All are locked before the first is settled: whoever has locked another one may wait for the same sums.
            locked = [await unit.jobs.get_by_uid(uid, for_update=True) for uid in sorted(uids)]
            for job in locked:
                attempt = await unit.jobs.get_attempt(job.uid, job.attempt_count) if job else None
                if job is not None and attempt is not None and not attempt.ended and job.tenant in left:
                    await self._judge(unit, _Running(job, attempt), left[job.tenant], states[job.tenant])
            await unit.commit()

    async def _judge(
        self, unit: UnitOfWork, one: _Running, left: dict[BudgetMeter, int], states: Sequence[BudgetState]
    ) -> None:
        held = await unit.ledger.held(one.job.uid)
        more: dict[Meter, int] = {}
        lacking: list[BudgetMeter] = []
        ends = False
        for meter, hold in self._holds_of(one, held, left.keys()).items():
            budget = _BUDGET_OF[meter]
            verdict = judged(hold, left[budget], self._patience)
            left[budget] -= verdict.more
            more[meter] = verdict.more
            lacking += [budget] if verdict.leave else []
            ends = ends or verdict.end
        await extend(unit, one.job, held, more, self._context.now())
        if any(more.values()):
            HOLDS_EXTENDED.inc()
        if lacking:
            await self._give_way(unit, one, _sentence(one.job, lacking[0], states), ends=ends)

    async def _give_way(self, unit: UnitOfWork, one: _Running, why: str, *, ends: bool) -> None:
        context, now, job = self._context, self._context.now(), one.job
        if ends:
            message = f"{why} What it did since its last checkpoint is lost, as it did not leave in time."
            before = (JobEvent(now, EventLevel.WARNING, message),)
            error, settings = JobError(Reason.TRAINING_FAILED, message), context.settings
            left = await end_attempt(
                unit, job, one.attempt, error, cause=EndCause.PREEMPTED, now=now, policy=settings.retry,
                prices=settings.prices, before=before,
            )  # fmt: skip
        elif job.state is JobState.RUNNING:
            message = f"{why} The job saves a checkpoint, leaves, and waits."
            event = JobEvent(now, EventLevel.WARNING, message, state=JobState.PREEMPTING)
            left = await unit.jobs.save(job.moved(JobState.PREEMPTING, now), [event])
        else:
            return  # it is asked to leave already
        await record(context, unit, job, left, deed="EnforceBudget")
        _log.info("job_out_of_budget", tenant=job.tenant, job=job.name, ended=ends)

    @property
    def _patience(self) -> Patience:
        return Patience(self._context.settings.graces.leave.total_seconds() + 2 * LOOK_SECONDS, 2 * LOOK_SECONDS)

    def _holds_of(self, one: _Running, held: Sums, budgets: Collection[BudgetMeter]) -> Mapping[Meter, RunningHold]:
        """Of each meter that one of these budgets counts."""
        now, lease = self._context.now(), self._context.settings.lease
        return {
            meter: _running_hold(one, meter, held.get(meter, 0), now, one.attempt.lease_expire_time - lease)
            for meter, budget in _BUDGET_OF.items()
            if budget in budgets
        }


def _running_hold(one: _Running, meter: Meter, held: int, now: datetime, report_time: datetime) -> RunningHold:
    job, attempt = one.job, one.attempt
    start = attempt.start_time or now
    said = float(measured(attempt).get(meter, 0))
    silent = max(0.0, (now - max(report_time, start)).total_seconds())
    if meter is Meter.ACCELERATOR_MILLISECONDS:
        workers = job.spec.distributed.workers if job.spec.distributed else 1
        pace = max(1, workers) * attempt.accelerators * 1000
    else:
        pace = said / max(1.0, (max(report_time, start) - start).total_seconds())
    estimate = estimated(job.estimate).get(meter, 0)
    rest = _rest(one, meter, said, estimate) - silent * pace
    return RunningHold(held, said + silent * pace, pace, estimate, rest if rest > 0 else None)


def _rest(one: _Running, meter: Meter, said: float, estimate: int) -> float:
    """What the job still needs after what its attempt said last: by the steps that are done, or by its estimate. Not more
    than 0 if it has taken that already.
    """
    job, attempt = one.job, one.attempt
    if attempt.step > 0 and job.progress.total_steps:
        before = job.used_tokens if meter is Meter.TRAINED_TOKENS else job.used_seconds * attempt.accelerators * 1000
        return (before + said) / attempt.step * max(0, job.progress.total_steps - attempt.step)
    return estimate * part_left(job) - said


async def _hard(unit: UnitOfWork) -> dict[str, Quota]:
    """By tenant that has jobs which are not over: its quota, if it has a hard budget."""
    return {tenant.tenant_id: tenant.quota for tenant in await unit.queue.tenants() if _limited(tenant.quota)}


def _limited(quota: Quota) -> list[BudgetMeter]:
    return [budget.meter for budget in quota.budgets if budget.hard_limit is not None]


def _left(states: Sequence[BudgetState]) -> dict[BudgetMeter, int]:
    """Of each hard budget's meter, the least that is left."""
    left: dict[BudgetMeter, int] = {}
    for state in states:
        if state.left is not None:
            left[state.budget.meter] = min(state.left, left.get(state.budget.meter, state.left))
    return left


def _sentence(job: TuningJob, meter: BudgetMeter, states: Sequence[BudgetState]) -> str:
    tightest = min(
        (state for state in states if state.budget.meter is meter and state.left is not None),
        key=lambda state: state.left or 0,
    )
    what = "accelerator-seconds" if meter is BudgetMeter.ACCELERATOR_SECONDS else "tokens"
    return (
        f"The job needs more {what} than were held for it, and the budget of {TenantName(job.tenant)}, "
        f"{tightest.budget.hard_limit:,} a {tightest.budget.period.value.lower()}, has no more until "
        f"{tightest.end_time:%Y-%m-%d %H:%M} UTC."
    )
