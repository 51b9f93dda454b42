"""Why a job waits: every reason, with a sentence for its user. The numbers in them change only with what is decided."""

from collections.abc import Iterator
from datetime import UTC

from trellis.server.domain.quota import BudgetMeter
from trellis.server.domain.tuning_job import QueueCode, QueueReason
from trellis.server.scheduler.accounts import Account, Claim
from trellis.server.scheduler.capacity import NOTHING
from trellis.server.scheduler.plan import Plan
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Shared, Snapshot

_UNITS = {BudgetMeter.ACCELERATOR_SECONDS: "accelerator-seconds", BudgetMeter.TOKENS: "tokens"}


def is_ready(job: QueuedJob, snapshot: Snapshot) -> bool:
    """Whether the job may start if it gets what it needs."""
    return job.report_ready and (job.retry_time is None or job.retry_time <= snapshot.now)


def reasons_of(job: QueuedJob, snapshot: Snapshot, plan: Plan, position: int = 0) -> Iterator[QueueReason]:
    """All reasons for which a job waits that the plan did not place, in their precedence; never none."""
    told = False
    for code, message in _reasons(job, snapshot, plan):
        told = True
        yield QueueReason(code, message, position)
    if not told:
        yield QueueReason(QueueCode.CAPACITY, "Jobs before it take what it needs.", position)


def _reasons(job: QueuedJob, snapshot: Snapshot, plan: Plan) -> Iterator[tuple[QueueCode, str]]:
    if not job.report_ready:
        yield QueueCode.DATASET_VALIDATING, "It starts when the report on its dataset is done."
    if job.retry_time is not None and job.retry_time > snapshot.now:
        at = job.retry_time.astimezone(UTC)
        yield QueueCode.RETRY_BACKOFF, f"Its last attempt ended early; it is tried again at {at:%H:%M:%S} UTC."
    account, claim = plan.accounts.of(job.tenant), plan.accounts.claim(job)
    if never := _never(job, plan, account, claim):
        yield QueueCode.NEVER_FITS, never
        return
    if job.uid in plan.reserve:
        yield QueueCode.PREEMPTING, "Jobs that have borrowed accelerators or have a lower priority are leaving for it."
        return
    for code in account.obstacles(job.uid, claim):
        yield code, _OBSTACLES[code](job, account, claim)
    yield from _shortages(job, plan)


def _never(job: QueuedJob, plan: Plan, account: Account, claim: Claim) -> str:
    if not plan.fits_platform(job):
        return f"{_needs(job, plan)}, more than the platform has in all ({plan.capacity}): ask its operator."
    if not account.line.ever_allows(claim.accelerators):
        most = f"{account.line.largest:g}"
        return f"It takes {_accelerators(claim)}, and its tenant can have {most} at the most: ask for a larger quota."
    if not account.ever_budgeted(claim):
        return f"It holds {_budget(claim)}, more than its tenant's budget of a whole period: ask for a larger one."
    return ""


def _over_budget(job: QueuedJob, account: Account, claim: Claim) -> str:
    del job
    ends = [account.share.budget_ends[meter] for meter in claim.budget if meter in account.share.budget_ends]
    begins = f"; the next period begins on {max(ends).astimezone(UTC):%Y-%m-%d at %H:%M} UTC" if ends else ""
    return f"It holds {_budget(claim)}, more than is left of its tenant's budget{begins}."


def _at_limit(job: QueuedJob, account: Account, claim: Claim) -> str:
    del job, claim
    if account.running < account.limit:
        return f"At most {account.limit} of the tenant's jobs may run at once; the place that is left is kept for one before it."
    return f"{account.running} of the tenant's jobs run, and at most {account.limit} may run at once."


def _over_quota(job: QueuedJob, account: Account, claim: Claim) -> str:
    del job
    line = account.line
    borrowed = ", with what it may borrow" if line.cohort and line.most > (line.nominal or 0) else ""
    return (
        f"It takes {_accelerators(claim)}, and its tenant may have {line.most:g} at once{borrowed}; others of its jobs "
        "have them or go before it."
    )


def _over_cohort(job: QueuedJob, account: Account, claim: Claim) -> str:
    del job
    cohort = account.line.cohort
    assert cohort is not None
    whose = "which its tenant's quota covers" if account.line.is_within(claim.accelerators) else "in part borrowed"
    return (
        f"It takes {_accelerators(claim)}, {whose}; tenants of the cohort {cohort.name} use all {cohort.lendable:g} that "
        "they lend each other."
    )


_OBSTACLES = {
    QueueCode.BUDGET: _over_budget,
    QueueCode.TENANT_LIMIT: _at_limit,
    QueueCode.QUOTA: _over_quota,
    QueueCode.COHORT: _over_cohort,
}


def _shortages(job: QueuedJob, plan: Plan) -> Iterator[tuple[QueueCode, str]]:
    """What of the platform's it lacks."""
    trainers = plan.seats.count(job.work.base) if isinstance(job.work, Shared) else 0
    fits = not trainers and plan.needs(job).fits_into(plan.free)
    if fits and not (plan.needs(job).fits_into(plan.room) and plan.lets(job)):
        yield QueueCode.RESERVED, f"{_needs(job, plan)}, which is free, and kept for a job before it."
    if plan.lines.is_behind_others(job.uid):
        yield QueueCode.FAIR_SHARE, _behind(job, plan)
    if trainers and isinstance(job.work, Shared):
        if not plan.seats.free(job.work):
            yield QueueCode.CAPACITY, _full(job.work, trainers)
    elif not fits:
        yield (
            QueueCode.CAPACITY,
            f"{_needs(job, plan)}; what is free of {plan.capacity} is taken by {_takers(job, plan)}.",
        )


def _behind(job: QueuedJob, plan: Plan) -> str:
    if isinstance(job.work, Shared) and plan.seats.count(job.work.base):
        what = f"It needs a place on a trainer of {job.work.base.base_model}"
    else:
        what = _needs(job, plan)
    return f"{what}; jobs of other tenants go first, by priority or as their tenants have had less of their share."


def _full(work: Shared, trainers: int) -> str:
    which = "The trainer" if trainers == 1 else f"None of the {trainers} trainers"
    has = "has no" if trainers == 1 else "has"
    return f"{which} of {work.base.base_model} {has} room for it and the jobs before it; it starts when others end."


def _takers(job: QueuedJob, plan: Plan) -> str:
    takers = "jobs before it"
    if not isinstance(job.work, Alone) or plan.snapshot.trainers:
        takers += " and by trainers"
    if plan.snapshot.held != NOTHING:
        takers += " and by an export"
    return takers


def _needs(job: QueuedJob, plan: Plan) -> str:
    if isinstance(job.work, Alone):
        return f"It needs {job.work.needs}"
    return f"It needs a trainer of {job.work.base.base_model}, which takes {plan.trainer_needs}"


def _accelerators(claim: Claim) -> str:
    return f"{claim.accelerators:g} accelerator{'' if claim.accelerators == 1 else 's'}"


def _budget(claim: Claim) -> str:
    return " and ".join(f"{amount:,.0f} {_UNITS[meter]}" for meter, amount in sorted(claim.budget.items()))
