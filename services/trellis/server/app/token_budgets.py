"""Budgets of tokens at calls of models.

The ledger is asked at most once a second for each tenant that has such a budget; what this server's own calls have used
since and may still use is counted at once. With one server a hard limit is never passed; with several it may be by what
the others' calls use within that second, or are using.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from trellis.errors import QuotaViolation, Reason, TrellisError, error_for
from trellis.names import TenantName
from trellis.server.app.budgets import budget_states
from trellis.server.app.ports import Clock, UnitOfWorkFactory
from trellis.server.app.quota_errors import metadata_of, never_fits
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.tenant import Tenant

_KNOWN_FOR: Final = timedelta(seconds=1)


@dataclass(slots=True)
class _Known:
    """What is known of a tenant's use."""

    time: datetime
    used: Mapping[Period, int] = field(default_factory=dict)
    """Settled in the present period, and held for jobs that run; as of `time`."""
    since: int = 0
    """Used by this server's calls that ended since."""
    in_flight: int = 0
    """The most that this server's calls may use which go on."""


class TokenBudgets:
    """What one server knows of its tenants' budgets."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    async def admit(self, units: UnitOfWorkFactory, clock: Clock, tenant: Tenant, asked: int) -> bool:
        """Count a call that may use so many tokens; False, and no query, if nothing binds the tenant.

        Raises BUDGET_EXHAUSTED with the time until the period ends, and NEVER_FITS for more than a whole period's limit.
        """
        budgets = _hard_budgets(tenant)
        if not budgets:
            return False
        now = clock.now()
        known = await self._look(units, tenant.tenant_id, budgets, now)
        for budget in budgets:
            _require(tenant, budget, known.used[budget.period] + known.since + known.in_flight, asked, now)
        known.in_flight += asked
        return True

    def done(self, tenant_id: str, asked: int, used: int) -> None:
        """A call that was counted has ended, and what it used is in the ledger."""
        known = self._known[tenant_id]
        known.in_flight -= asked
        known.since += used

    async def _look(
        self, units: UnitOfWorkFactory, tenant_id: str, budgets: tuple[Budget, ...], now: datetime
    ) -> _Known:
        known = self._known.get(tenant_id)
        periods = {budget.period for budget in budgets}
        if known is not None and known.used.keys() >= periods and _is_fresh(known, periods, now):
            return known
        before = known.since if known else 0
        async with units(write=False) as unit:
            states = (await budget_states(unit, {tenant_id: Quota(budgets=budgets)}, now))[tenant_id]
        used = {state.budget.period: state.settled + state.held for state in states}
        # Looked up again: other calls have come and gone meanwhile.
        known = self._known.setdefault(tenant_id, _Known(now))
        known.time, known.used, known.since = now, used, max(0, known.since - before)
        return known


def _is_fresh(known: _Known, periods: set[Period], now: datetime) -> bool:
    return now - known.time < _KNOWN_FOR and all(period.start(known.time) == period.start(now) for period in periods)


def _hard_budgets(tenant: Tenant) -> tuple[Budget, ...]:
    budgets = tenant.quota.budgets
    return tuple(each for each in budgets if each.meter is BudgetMeter.TOKENS and each.hard_limit is not None)


def _require(tenant: Tenant, budget: Budget, used: int, asked: int, now: datetime) -> None:
    allowed = budget.hard_limit
    assert allowed is not None, "only hard limits are asked about"
    if used + asked <= allowed:
        return
    subject, period = str(TenantName(tenant.tenant_id)), budget.period.value.lower()
    limit = f"budgets.tokens.{period}"
    if asked > allowed:
        message = (
            f"{subject} may use {allowed:,} tokens a {period}, and this call may take {asked:,}. Lower max_tokens."
        )
        raise never_fits((QuotaViolation(subject, limit, allowed, used, asked, message),))
    raise _exhausted(QuotaViolation(subject, limit, allowed, used, asked, ""), budget, now)


def _exhausted(numbers: QuotaViolation, budget: Budget, now: datetime) -> TrellisError:
    end, period = budget.period.end(now), budget.period.value.lower()
    message = (
        f"{numbers.subject} has used {numbers.used:,} of {numbers.allowed:,} tokens of this {period}, and this call may take"
        f" {numbers.asked:,}. The next {period} begins at {end:%Y-%m-%d %H:%M} UTC."
    )
    violation = QuotaViolation(numbers.subject, numbers.limit, numbers.allowed, numbers.used, numbers.asked, message)
    details = {"meter": budget.meter.value, "period_end_time": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    return error_for(
        Reason.BUDGET_EXHAUSTED,
        message,
        metadata={**metadata_of(violation), **details},
        quota_violations=(violation,),
        retry_after=(end - now).total_seconds(),
    )
