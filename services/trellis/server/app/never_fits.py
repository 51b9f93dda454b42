"""Jobs that no waiting would let start: they are refused when they are submitted, with all the numbers at once."""

from collections.abc import Iterator, Mapping

from trellis.errors import QuotaViolation
from trellis.names import TenantName
from trellis.server.app.job_needs import JobNeeds
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota_errors import never_fits
from trellis.server.domain.quota import BudgetMeter, Quota
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.tuning_job import TuningJob
from trellis.server.scheduler.capacity import ROUNDING
from trellis.server.scheduler.cohorts import Cohort, QuotaLine

_PLATFORM = "platform"


async def cohort_of(unit: UnitOfWork, tenant: Tenant) -> Mapping[str, Quota]:
    """The quotas of the tenant's cohort, where they bind it; no query elsewhere."""
    bound = tenant.quota.accelerators is not None and tenant.cohort
    return await unit.used.cohort(tenant.cohort) if bound else {}


def require_possible(tenant: Tenant, members: Mapping[str, Quota], job: TuningJob, needs: JobNeeds) -> None:
    """Raise NEVER_FITS if the job asks for more than the platform has, or than the tenant may have at any time.

    What is not known yet, as the report on its dataset is still being made, the scheduler looks at later.
    """
    found = (*_beyond_platform(job, needs), *_beyond_quota(tenant, job, needs, members), *_beyond_budgets(tenant, job))
    if found:
        raise never_fits(found)


def most_accelerators(tenant: Tenant, cohort: Mapping[str, Quota]) -> float | None:
    """So many the tenant may have when nobody else of its cohort has any; None where nothing binds."""
    if tenant.quota.accelerators is None:
        return None
    if not tenant.cohort:
        return tenant.quota.accelerators
    shared = Cohort(tenant.cohort)
    lines = {name: QuotaLine.of(quota, shared) for name, quota in {**cohort, tenant.tenant_id: tenant.quota}.items()}
    line = lines[tenant.tenant_id]
    return min(line.most, line.kept + shared.lendable)


def _beyond_platform(job: TuningJob, needs: JobNeeds) -> Iterator[QuotaViolation]:
    shared = job.spec.distributed is None
    wanted = needs.trainer if shared else needs.alone(job.spec)
    if wanted.fits_into(needs.capacity):
        return
    what = "A shared trainer, on which the job would run," if shared else "The job"
    less = " Ask for fewer workers." if job.spec.distributed and job.spec.distributed.workers > 1 else ""
    message = f"{what} needs {wanted}, and the platform has {needs.capacity} in all.{less}"
    numbers = (needs.accelerators(needs.capacity), 0, needs.accelerators(wanted))
    yield QuotaViolation(_PLATFORM, "accelerators", *numbers, message)


def _beyond_quota(
    tenant: Tenant, job: TuningJob, needs: JobNeeds, cohort: Mapping[str, Quota]
) -> Iterator[QuotaViolation]:
    subject = str(TenantName(tenant.tenant_id))
    if tenant.quota.running_jobs == 0:
        yield QuotaViolation(subject, "running_jobs", 0, 0, 1, f"{subject} may run no jobs at all.")
    most, asked = most_accelerators(tenant, cohort), needs.of_quota(job.spec)
    if most is not None and asked > most + ROUNDING:
        own = tenant.quota.accelerators or 0.0
        of = f": {own:g} of its own, and {most - own:g} of those that its cohort lends" if tenant.cohort else ""
        message = f"The job takes {asked:g} accelerators, and {subject} may have {most:g} at the most{of}."
        yield QuotaViolation(subject, "accelerators", most, 0, asked, message)


def _beyond_budgets(tenant: Tenant, job: TuningJob) -> Iterator[QuotaViolation]:
    if job.estimate is None:
        return
    subject, estimate = str(TenantName(tenant.tenant_id)), job.estimate
    taken = {
        BudgetMeter.ACCELERATOR_SECONDS: (estimate.accelerator_seconds, "accelerator-seconds"),
        BudgetMeter.TOKENS: (float(estimate.trained_tokens), "tokens"),
    }
    for budget in tenant.quota.budgets:
        asked, unit = taken[budget.meter]
        if budget.hard_limit is not None and asked > budget.hard_limit:
            period = budget.period.value.lower()
            message = f"The job is expected to take {asked:,.0f} {unit}, and {subject} may use {budget.hard_limit:,} a {period}."
            limit = f"budgets.{budget.meter.value.lower()}.{period}"
            yield QuotaViolation(subject, limit, budget.hard_limit, 0, asked, message)
