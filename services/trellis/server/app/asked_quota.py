"""A quota as it is asked for, and what may be wrong with its numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from trellis.server.app.fields import Violations
from trellis.server.domain.quota import UNLIMITED, Budget, BudgetMeter, Period, Quota

_FIELD: Final = "tenant.quota"
_ACCELERATORS: Final = ("accelerators", "borrowing_limit", "lending_limit")
_COUNTS: Final = (
    *("running_jobs", "open_jobs", "dataset_bytes", "artifact_bytes", "deployed_adapters"),
    *("requests_per_minute", "tokens_per_minute"),
)
_MOST: Final = 2**53
"""Every limit is also reckoned with as a float, which has no larger whole numbers one by one."""
MOST_PRIORITY: Final = 100


@dataclass(frozen=True, slots=True)
class AskedBudget:
    """A budget as it is asked for; None where the request says nothing."""

    meter: BudgetMeter | None
    period: Period | None
    soft_limit: int | None = None
    hard_limit: int | None = None


@dataclass(frozen=True, slots=True)
class AskedQuota:
    """A quota as it is asked for."""

    limits: Quota = UNLIMITED
    """Without budgets."""
    budgets: tuple[AskedBudget, ...] = ()


def checked_quota(asked: AskedQuota | None, violations: Violations) -> Quota:
    """The quota, with everything that is wrong in it noted; no quota is one without limits."""
    if asked is None:
        return UNLIMITED
    limits = asked.limits
    for name in _ACCELERATORS:
        value = getattr(limits, name)
        if value is not None and not (math.isfinite(value) and 0 <= value <= _MOST):
            violations.add(f"{_FIELD}.{name}", f"{value:g} is not a number of accelerators, 0 or more.")
    for name in _COUNTS:
        value = getattr(limits, name)
        if value is not None and not 0 <= value <= _MOST:
            violations.add(f"{_FIELD}.{name}", f"{value} is not between 0 and 2^53.")
    if limits.max_priority is not None and abs(limits.max_priority) > MOST_PRIORITY:
        message = f"{limits.max_priority} is not between -{MOST_PRIORITY} and {MOST_PRIORITY}."
        violations.add(f"{_FIELD}.max_priority", message)
    _check_lending(limits, violations)
    return replace(limits, budgets=_checked_budgets(asked.budgets, violations))


def _check_lending(limits: Quota, violations: Violations) -> None:
    if limits.accelerators is None:
        for name in ("borrowing_limit", "lending_limit"):
            if getattr(limits, name) is not None:
                message = "It needs `accelerators`: only who has some of its own borrows and lends."
                violations.add(f"{_FIELD}.{name}", message)
    elif limits.lending_limit is not None and limits.lending_limit > limits.accelerators:
        message = (
            f"{limits.lending_limit:g} are more than the {limits.accelerators:g} accelerators that it has to lend."
        )
        violations.add(f"{_FIELD}.lending_limit", message)


def _checked_budgets(asked: Sequence[AskedBudget], violations: Violations) -> tuple[Budget, ...]:
    found: dict[tuple[BudgetMeter, Period], Budget] = {}
    for at, budget in enumerate(asked):
        field = f"{_FIELD}.budgets[{at}]"
        _check_limits(budget, field, violations)
        if budget.meter is None:
            violations.add(f"{field}.meter", "It must say what is counted.")
        if budget.period is None:
            violations.add(f"{field}.period", "It must say over what time.")
        if budget.meter is None or budget.period is None:
            continue
        if (budget.meter, budget.period) in found:
            violations.add(field, f"There is another budget of {budget.meter} over a {budget.period}.")
        made = Budget(budget.meter, budget.period, budget.soft_limit, budget.hard_limit)
        found.setdefault((budget.meter, budget.period), made)
    return tuple(found.values())


def _check_limits(budget: AskedBudget, field: str, violations: Violations) -> None:
    limits = {"soft_limit": budget.soft_limit, "hard_limit": budget.hard_limit}
    for name, value in limits.items():
        if value is not None and not 0 <= value <= _MOST:
            violations.add(f"{field}.{name}", f"{value} is not between 0 and 2^53.")
    soft, hard = limits.values()
    if soft is None and hard is None:
        violations.add(field, "It has no limit; give soft_limit, hard_limit or both.")
    if soft is not None and hard is not None and soft > hard:
        violations.add(f"{field}.soft_limit", f"{soft} is above the hard limit of {hard}.")
