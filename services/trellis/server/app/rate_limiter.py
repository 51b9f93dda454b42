"""Lets a tenant's calls of models through at its rates, which hold for all servers together.

The truth is two rows of the database, which every taking locks. So that many calls at once cost little, a server asks for
one tenant at a time: the calls that come meanwhile are answered together, in their order, by the next transaction.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from trellis.errors import QuotaViolation, Reason, TrellisError, error_for
from trellis.names import TenantName
from trellis.server.app.ports import Clock, UnitOfWork, UnitOfWorkFactory
from trellis.server.app.quota_errors import metadata_of, never_fits
from trellis.server.domain.rate import Bucket, RateKind, Taken, take
from trellis.server.domain.tenant import Tenant

PATIENCE: Final = 5.0
"""So many seconds a call waits for its turn at the most."""
_FIELDS: Final = {RateKind.REQUESTS: "requests_per_minute", RateKind.TOKENS: "tokens_per_minute"}
_WORDS: Final = {RateKind.REQUESTS: "calls", RateKind.TOKENS: "tokens"}


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call has taken of its tenant's buckets."""

    tenant: str
    rates: dict[RateKind, int]
    wanted: dict[RateKind, float]
    waited: float = 0.0
    """Seconds until it was its turn."""


@dataclass(slots=True)
class _Asked:
    charge: Charge
    patience: float
    answer: asyncio.Future[Taken]


@dataclass(slots=True)
class _Line:
    """The calls of one tenant that are not answered yet."""

    waiting: list[_Asked] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class RateLimiter:
    """What one server knows: who waits for an answer."""

    def __init__(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep, patience: float = PATIENCE) -> None:
        self._sleep = sleep
        self._patience = patience
        self._lines: dict[str, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def admit(
        self, units: UnitOfWorkFactory, clock: Clock, tenant: Tenant, tokens: float, seconds: float | None
    ) -> Charge | None:
        """Wait for the call's turn, at most until `seconds` are over; None, and no query, if the tenant has no rates.

        Raises RATE_LIMITED with the time to wait where that would be too long, and NEVER_FITS for what is more than a
        minute's worth.
        """
        rates = _rates_of(tenant)
        if not rates:
            return None
        wanted = {RateKind.REQUESTS: 1.0, RateKind.TOKENS: tokens}
        charge = Charge(tenant.tenant_id, rates, {kind: wanted[kind] for kind in rates})
        _require_possible(charge)
        patience = self._patience if seconds is None else min(self._patience, seconds)
        taken = await self._ask(units, clock, charge, patience)
        if not taken.granted:
            raise _limited(charge, taken)
        if taken.wait > 0:
            await self._wait(units, clock, charge, taken.wait)
        return Charge(charge.tenant, rates, charge.wanted, taken.wait)

    async def drain(self) -> None:
        """Wait for what is being taken, and returned for calls that went away."""
        taking = (line.task for line in self._lines.values() if line.task is not None)
        await asyncio.gather(*taking, *self._tasks, return_exceptions=True)

    async def _wait(self, units: UnitOfWorkFactory, clock: Clock, charge: Charge, seconds: float) -> None:
        try:
            await self._sleep(seconds)
        except BaseException:
            self._later(return_all(units, clock, charge))
            raise

    async def _ask(self, units: UnitOfWorkFactory, clock: Clock, charge: Charge, patience: float) -> Taken:
        line = self._lines.setdefault(charge.tenant, _Line())
        asked = _Asked(charge, patience, asyncio.get_running_loop().create_future())
        line.waiting.append(asked)
        if line.task is None:
            line.task = asyncio.create_task(self._answer(units, clock, charge.tenant, line))
        return await asked.answer

    async def _answer(self, units: UnitOfWorkFactory, clock: Clock, tenant: str, line: _Line) -> None:
        """Answer all that wait, and those that come meanwhile."""
        try:
            while line.waiting:
                # Whoever has gone away takes nothing.
                batch = [asked for asked in line.waiting if not asked.answer.done()]
                line.waiting = []
                await self._answer_batch(units, clock, tenant, batch)
        finally:
            del self._lines[tenant]

    async def _answer_batch(self, units: UnitOfWorkFactory, clock: Clock, tenant: str, batch: list[_Asked]) -> None:
        try:
            taken = await _take_all(units, clock, tenant, batch)
        except Exception as error:  # noqa: BLE001 - each of the calls raises it
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
            return
        for asked, answer in zip(batch, taken, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(answer)
            elif answer.granted:
                await return_all(units, clock, asked.charge)

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def correct_all(unit: UnitOfWork, clock: Clock, calls: Sequence[tuple[Charge, float]]) -> None:
    """Give back what each of these calls did not use of its tokens, or take what it used beyond.

    Tenants are locked in one order, so that servers wait for each other in turn.
    """
    kind = RateKind.TOKENS
    by_tenant: dict[str, list[tuple[Charge, dict[RateKind, float]]]] = {}
    for charge, tokens in calls:
        if kind in charge.rates and tokens != charge.wanted[kind]:
            by_tenant.setdefault(charge.tenant, []).append((charge, {kind: charge.wanted[kind] - tokens}))
    for tenant in sorted(by_tenant):
        await _give(unit, clock, by_tenant[tenant])


async def return_all(units: UnitOfWorkFactory, clock: Clock, charge: Charge) -> None:
    """Give back all that a call has taken that was never made."""
    async with units() as unit:
        await _give(unit, clock, [(charge, charge.wanted)])
        await unit.commit()


async def _give(unit: UnitOfWork, clock: Clock, returned: Sequence[tuple[Charge, dict[RateKind, float]]]) -> None:
    """Of one tenant's calls, one after the other, as each would have done by itself."""
    now, tenant = clock.now().timestamp(), returned[0][0].tenant
    full = {kind: bucket for charge, _ in returned for kind, bucket in _full(charge, now).items()}
    buckets = await unit.rates.lock(tenant, full)
    given: dict[RateKind, Bucket] = {}
    for charge, amounts in returned:
        for kind, amount in amounts.items():
            rate = charge.rates[kind]
            given[kind] = given.get(kind, buckets[kind]).at(now, rate).less(-amount).at(now, rate)
    await unit.rates.put(tenant, given)


async def _take_all(units: UnitOfWorkFactory, clock: Clock, tenant: str, batch: list[_Asked]) -> list[Taken]:
    if not batch:
        return []
    async with units() as unit:
        full = {
            kind: bucket for asked in batch for kind, bucket in _full(asked.charge, clock.now().timestamp()).items()
        }
        buckets = await unit.rates.lock(tenant, full)
        now = clock.now().timestamp()
        taken = [take(buckets, asked.charge.rates, asked.charge.wanted, now, asked.patience) for asked in batch]
        if any(answer.granted for answer in taken):
            await unit.rates.put(tenant, {kind: buckets[kind] for kind in full})
            await unit.commit()
    return taken


def _full(charge: Charge, now: float) -> dict[RateKind, Bucket]:
    return {kind: Bucket.full(rate, now) for kind, rate in charge.rates.items()}


def _rates_of(tenant: Tenant) -> dict[RateKind, int]:
    rates = {kind: getattr(tenant.quota, name) for kind, name in _FIELDS.items()}
    return {kind: rate for kind, rate in rates.items() if rate is not None}


def _require_possible(charge: Charge) -> None:
    for kind, rate in charge.rates.items():
        asked = charge.wanted[kind]
        if asked > rate:
            subject = str(TenantName(charge.tenant))
            hint = " Lower max_tokens, or shorten the prompt." if kind is RateKind.TOKENS and rate else ""
            message = f"{subject} may have {rate:,} {_WORDS[kind]} a minute, and this call may take {asked:,.0f}.{hint}"
            raise never_fits((QuotaViolation(subject, _FIELDS[kind], rate, 0, asked, message),))


def _limited(charge: Charge, taken: Taken) -> TrellisError:
    subject = str(TenantName(charge.tenant))
    limits = " and ".join(f"{charge.rates[kind]:,} {_WORDS[kind]}" for kind in taken.short)
    message = f"The calls of {subject} come faster than its {limits} a minute. Try again in {taken.wait:.1f} seconds."
    violations = tuple(
        QuotaViolation(
            subject, _FIELDS[kind], charge.rates[kind], charge.rates[kind] - level, charge.wanted[kind], message
        )
        for kind, level in taken.short.items()
    )
    return error_for(
        Reason.RATE_LIMITED,
        message,
        metadata=metadata_of(violations[0]),
        quota_violations=violations,
        retry_after=taken.wait,
    )
