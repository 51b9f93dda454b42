"""Counts the budgets that are used up to a limit, and names them in the log when it happens."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping

import structlog

from trellis.server.app.budgets import UNITS, BudgetState, budget_states
from trellis.server.control.context import ControlContext
from trellis.server.control.metrics import BUDGETS_REACHED
from trellis.server.domain.quota import BudgetMeter, Quota

_log = structlog.get_logger(__name__)
_PAGE = 200
_SOFT, _HARD = "soft", "hard"


class MeasureBudgets:
    """Looks at the budgets of all tenants. Each server of an installation reports the same figures."""

    name = "measure_budgets"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._said: frozenset[tuple[str, ...]] = frozenset()
        """What was reached at the last look."""

    async def once(self) -> bool:
        """One look."""
        reached = {key: state async for key, state in self._reached()}
        for tenant, meter, period, limit in sorted(reached.keys() - self._said):
            used = reached[tenant, meter, period, limit].settled / UNITS[BudgetMeter(meter)]
            _log.warning("budget_reached", tenant=tenant, meter=meter, period=period, limit=limit, used=used)
        self._said = frozenset(reached)
        counts = Counter((meter, limit) for _, meter, _, limit in reached)
        for each in BudgetMeter:
            for limit in (_SOFT, _HARD):
                BUDGETS_REACHED.labels(each.value, limit).set(counts[each.value, limit])
        return False

    async def _reached(self) -> AsyncIterator[tuple[tuple[str, str, str, str], BudgetState]]:
        async for quotas in self._quotas():
            async with self._context.units(write=False) as unit:
                found = await budget_states(unit, quotas, self._context.now())
            for tenant, states in found.items():
                for state in states:
                    for limit in _limits_of(state):
                        yield (tenant, state.budget.meter.value, state.budget.period.value, limit), state

    async def _quotas(self) -> AsyncIterator[Mapping[str, Quota]]:
        """Page by page the quotas that have budgets."""
        cursor: str | None = None
        while True:
            async with self._context.units(write=False) as unit:
                page = await unit.tenants.list(_PAGE, cursor)
            yield {tenant.tenant_id: tenant.quota for tenant in page.items if tenant.quota.budgets}
            if (cursor := page.next_cursor) is None:
                return


def _limits_of(state: BudgetState) -> list[str]:
    """The limits that are reached."""
    hard = state.left is not None and state.left <= 0
    return [*([_SOFT] if state.is_over_soft else []), *([_HARD] if hard else [])]
