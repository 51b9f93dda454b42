"""The gate that a tenant's calls of models pass: budgets of tokens, then rates."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from trellis.server.app.ports import Clock, UnitOfWork, UnitOfWorkFactory
from trellis.server.app.rate_limiter import Charge, RateLimiter, correct_all
from trellis.server.app.token_budgets import TokenBudgets
from trellis.server.app.token_estimate import TokenEstimate, estimate_tokens
from trellis.server.domain.quota import BudgetMeter
from trellis.server.domain.tenant import Tenant
from trellis.v1.inference_pb2 import GenerateRequest


@dataclass(frozen=True, slots=True)
class Passed:
    """A call that was let through, and what was counted for it."""

    tenant: str
    estimate: TokenEstimate
    charge: Charge | None
    budgeted: bool

    @property
    def waited(self) -> float:
        """Seconds that it waited for its turn."""
        return self.charge.waited if self.charge else 0.0


class CallGate:
    """What one server knows of calls on their way. Tenants without such limits cost no query."""

    def __init__(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._rates = RateLimiter(sleep)
        self._budgets = TokenBudgets()

    @staticmethod
    def counts(tenant: Tenant | None) -> bool:
        """Whether the tenant has a limit that its calls could meet here."""
        if tenant is None:
            return False
        quota = tenant.quota
        rates = (quota.requests_per_minute, quota.tokens_per_minute)
        return rates != (None, None) or any(budget.meter is BudgetMeter.TOKENS for budget in quota.budgets)

    async def drain(self) -> None:
        """Wait for what is written beside the calls."""
        await self._rates.drain()

    async def admit(
        self,
        units: UnitOfWorkFactory,
        clock: Clock,
        tenant: Tenant,
        request: GenerateRequest,
        context_length: int,
        seconds: float | None,
    ) -> Passed:
        """Let the call through when it is its turn, at most until `seconds` are over; see TokenBudgets and RateLimiter."""
        estimate = estimate_tokens(request, context_length)
        budgeted = await self._budgets.admit(units, clock, tenant, estimate.total)
        try:
            charge = await self._rates.admit(units, clock, tenant, estimate.total, seconds)
        except BaseException:
            if budgeted:
                self._budgets.done(tenant.tenant_id, estimate.total, 0)
            raise
        return Passed(tenant.tenant_id, estimate, charge, budgeted)

    @staticmethod
    async def correct_all(unit: UnitOfWork, clock: Clock, calls: Sequence[tuple[Passed, int]]) -> None:
        """Let the tenants' rates know what these calls took, in the transaction that records it."""
        await correct_all(unit, clock, [(call.charge, used) for call, used in calls if call.charge is not None])

    def done(self, passed: Passed, used: int) -> None:
        """The call has ended, and what it took is recorded."""
        if passed.budgeted:
            self._budgets.done(passed.tenant, passed.estimate.total, used)
