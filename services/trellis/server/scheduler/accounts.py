"""What each tenant has of everything that is limited, while jobs are admitted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trellis.server.domain.quota import BudgetMeter, Quota
from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.capacity import NOTHING, ROUNDING, Resources
from trellis.server.scheduler.cohorts import Cohort, QuotaLine
from trellis.server.scheduler.snapshot import ActiveJob, Alone, QueuedJob, Snapshot, TenantShare


@dataclass(frozen=True, slots=True)
class Claim:
    """What a job counts for while it runs."""

    accelerators: float
    """Of its tenant's quota."""
    resources: Resources
    """Of which its tenant's dominant share is made: on a shared trainer its seat's part of it."""
    budget: Mapping[BudgetMeter, float] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Account:
    """One tenant's."""

    share: TenantShare
    limit: int
    """Of jobs that run at once."""
    line: QuotaLine
    budget_left: dict[BudgetMeter, float]
    budget_most: Mapping[BudgetMeter, float]
    """What the tenant has in a whole period."""
    running: int = 0
    leaving: int = 0
    """Of those, how many were asked to leave."""
    held: Resources = NOTHING
    """By all its jobs, those on shared trainers too."""
    promised: Claim | None = None
    """What is kept for its first job that waits for capacity or for what its tenant has: younger ones leave it that."""
    promised_to: str = ""
    """The uid of that job."""

    def obstacles(self, uid: str, claim: Claim) -> Iterator[QueueCode]:
        """What of the tenant's own, and of its cohort's, forbids that one more job starts now; in their precedence."""
        if self._lacks_budget(uid, claim):
            yield QueueCode.BUDGET
        if self.running + self.is_promised(uid) >= self.limit:
            yield QueueCode.TENANT_LIMIT
        if not self.line.own_allows(claim.accelerators, self.is_promised(uid)):
            yield QueueCode.QUOTA
        elif not self.line.cohort_allows(claim.accelerators, self.is_promised(uid)):
            yield QueueCode.COHORT

    def ever_allows(self, claim: Claim) -> bool:
        """Whether a job could start when no other one ran and a period had just begun."""
        return self.ever_budgeted(claim) and self.line.ever_allows(claim.accelerators)

    def ever_budgeted(self, claim: Claim) -> bool:
        """Whether a whole period's budget is enough for it."""
        most = self.budget_most
        return not most or all(claim.budget.get(meter, 0.0) <= limit + ROUNDING for meter, limit in most.items())

    def take(self, claim: Claim) -> None:
        """A job runs, or everything is kept for it by name."""
        self.running += 1
        self.line.charge(claim.accelerators)
        self.held = self.held.plus(claim.resources)
        for meter, amount in claim.budget.items():
            if meter in self.budget_left:
                self.budget_left[meter] -= amount

    def promise(self, uid: str, claim: Claim, obstacle: QueueCode | None) -> None:
        """A job waits, for that or for capacity: what it needs is kept for it, if it is the first."""
        if self.promised is None:
            if obstacle in {None, QueueCode.COHORT}:
                self.line.promise_from_cohort(claim.accelerators)
            self.promised, self.promised_to = claim, uid
            self.line.promised = claim.accelerators

    def is_promised(self, uid: str) -> bool:
        """Whether something is kept for another job."""
        return self.promised is not None and self.promised_to != uid

    def _lacks_budget(self, uid: str, claim: Claim) -> bool:
        kept = self.promised.budget if self.promised is not None and self.is_promised(uid) else {}
        left = self.budget_left
        return any(
            meter in left and amount > left[meter] - kept.get(meter, 0.0) + ROUNDING
            for meter, amount in claim.budget.items()
        )


class Accounts:
    """All tenants', with what active jobs take."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._cohorts: dict[str, Cohort] = {}
        self._accounts: dict[str, Account] = {}
        self._seat = snapshot.seat
        self._seat_resources = snapshot.trainer_needs.part(snapshot.options.max_jobs)
        for tenant in sorted(snapshot.tenants):
            self.of(tenant)
        for job in snapshot.active:
            self.of(job.tenant).take(self.of_active(job))
            if job.leaving:
                self.leaves(job)

    def of(self, tenant: str) -> Account:
        """The tenant's."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = self._opened(self._snapshot.share_of(tenant))
        return account

    def claim(self, job: QueuedJob) -> Claim:
        """What a queued job would count for."""
        if isinstance(job.work, Alone):
            return Claim(self._snapshot.accelerators(job.work.needs), job.work.needs, job.budget_needs)
        return Claim(self._seat, self._seat_resources, job.budget_needs)

    def of_active(self, job: ActiveJob) -> Claim:
        """What an active job counts for; its budget is settled or held."""
        if job.trainer_uid:
            return Claim(self._seat, self._seat_resources)
        return Claim(self._snapshot.accelerators(job.needs), job.needs)

    def leaves(self, job: ActiveJob) -> None:
        """An active job was asked to leave."""
        account = self.of(job.tenant)
        account.leaving += 1
        account.line.leaving += self.of_active(job).accelerators

    def _opened(self, share: TenantShare) -> Account:
        cohort = None
        if share.cohort:
            cohort = self._cohorts.setdefault(share.cohort, Cohort(share.cohort))
        limit = share.quota.running_jobs
        return Account(
            share=share,
            limit=self._snapshot.tenant_running_limit if limit is None else limit,
            line=QuotaLine.of(share.quota, cohort),
            budget_left=dict(share.budget_left),
            budget_most=_whole_budgets(share.quota),
        )


def _whole_budgets(quota: Quota) -> Mapping[BudgetMeter, float]:
    most: dict[BudgetMeter, float] = {}
    for budget in quota.budgets:
        if budget.hard_limit is not None:
            most[budget.meter] = min(budget.hard_limit, most.get(budget.meter, budget.hard_limit))
    return most
