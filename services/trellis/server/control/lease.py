"""Work that one server at a time does: the lease, and what keeps the work of a former holder from being applied."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

import structlog

from trellis.errors import TrellisError
from trellis.server.app.ports import Claim, UnitOfWork, UnitOfWorkFactory
from trellis.server.control.context import DUTY, ControlContext

_log = structlog.get_logger(__name__)


class LeaseLostError(Exception):
    """Another server does this now, or may: what is left of the round is dropped."""


_RENEWALS_A_LEASE = 2
_MARGIN = timedelta(seconds=3)
"""Nothing outside the database is begun by who holds the lease for less time than this."""
_LOOK = timedelta(seconds=2)
"""How often a server that does not hold a lease looks whether it is free."""


class Lease:
    """A named lease, held by this server or not.

    `guard` gives the control context of who works under it: each unit of work that writes locks the lease's row first,
    and fails if another server holds it; what is begun outside the database is begun only while the lease lasts.
    """

    def __init__(self, context: ControlContext, name: str, length: timedelta = DUTY) -> None:
        self._context = context
        self._name = name
        self._length = length
        self._claim: Claim | None = None
        self._look_time: datetime | None = None

    @property
    def is_held(self) -> bool:
        """Whether it is held for long enough to begin something."""
        return self._claim is not None and self._context.now() < self._claim.expire_time - _MARGIN

    @property
    def name(self) -> str:
        """What the lease is for."""
        return self._name

    @property
    def token(self) -> str:
        """What the holder is known by; another one each time that the lease is acquired."""
        return self._claim.token if self._claim else ""

    async def hold(self) -> bool:
        """Acquire the lease, or renew it when half of it is over; whether it is held."""
        now = self._context.now()
        if self._claim is not None and not self._is_due(now):
            return True
        if self._claim is not None and await self.renew():
            return True
        if self._look_time is not None and now < self._look_time:
            return False
        return await self._acquire(now)

    async def renew(self) -> bool:
        """Hold it for another full length; False if it was lost."""
        assert self._claim is not None
        renewed = Claim(self._claim.token, self._context.now() + self._length)
        async with self._context.units() as unit:
            kept = await unit.leases.renew(self._name, renewed)
            await unit.commit()
        self._claim = renewed if kept else None
        if not kept:
            _log.warning("lease_lost", lease=self._name)
        return kept

    async def release(self) -> None:
        """Let it go, so that another server need not wait for its end."""
        claim, self._claim = self._claim, None
        if claim is not None:
            async with self._context.units() as unit:
                await unit.leases.release(self._name, claim.token)
                await unit.commit()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renews it meanwhile, however long the work takes."""
        done = asyncio.Event()
        renewing = asyncio.create_task(self._renew_until(done), name=f"lease {self._name}")
        try:
            yield
        finally:
            done.set()
            await renewing

    def guard(self, context: ControlContext) -> ControlContext:
        """The context for what works under the lease."""
        return replace(
            context,
            units=_FencedUnits(context.units, self),
            cluster=_Fenced(context.cluster, self),
            engines=_Fenced(context.engines, self),
            objects=_Fenced(context.objects, self),
            apart=_Fenced(context.apart, self) if context.apart is not None else None,
        )

    async def check(self, unit: UnitOfWork) -> None:
        """Lock the lease's row, so that nobody takes it before this unit of work has ended; raises LeaseLostError."""
        if not self.token or not await unit.leases.holds(self._name, self.token):
            raise LeaseLostError(self._name)

    def expect_held(self) -> None:
        """Raise LeaseLostError unless it is held for long enough to begin something."""
        if not self.is_held:
            raise LeaseLostError(self._name)

    def _is_due(self, now: datetime) -> bool:
        assert self._claim is not None
        return now >= self._claim.expire_time - self._length / _RENEWALS_A_LEASE

    async def _acquire(self, now: datetime) -> bool:
        async with self._context.units(write=False) as unit:
            expire_time = await unit.leases.expire_time(self._name)
        if expire_time is None or expire_time <= now:
            claim = self._context.claim(self._length)
            async with self._context.units() as unit:
                acquired = await unit.leases.acquire(self._name, claim, now)
                await unit.commit()
            if acquired:
                self._claim, self._look_time = claim, None
                _log.info("lease_acquired", lease=self._name)
                return True
        self._look_time = now + _LOOK
        return False

    async def _renew_until(self, done: asyncio.Event) -> None:
        pause = self._length.total_seconds() / _RENEWALS_A_LEASE
        while self._claim is not None:
            try:
                await asyncio.wait_for(done.wait(), pause)
            except TimeoutError:
                pass
            else:
                return
            try:
                await self.renew()
            except TrellisError as error:  # the database may come back before the lease is over
                _log.warning("lease_not_renewed", lease=self._name, why=str(error))


class _FencedUnits:
    """Units of work of which those that write hold the lease."""

    def __init__(self, units: UnitOfWorkFactory, lease: Lease) -> None:
        self._units = units
        self._lease = lease

    def __call__(self, *, write: bool = True, snapshot: bool = True) -> UnitOfWork:
        unit = self._units(write=write, snapshot=snapshot)
        return _FencedUnit(unit, self._lease) if write else unit  # type: ignore[return-value]


class _FencedUnit:
    """A unit of work that begins by asking for the lease."""

    def __init__(self, unit: UnitOfWork, lease: Lease) -> None:
        self._unit = unit
        self._lease = lease

    async def __aenter__(self) -> UnitOfWork:
        entered = await self._unit.__aenter__()
        try:
            await self._lease.check(entered)
        except BaseException as error:
            await self._unit.__aexit__(type(error), error, error.__traceback__)
            raise
        return entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._unit.__aexit__(kind, error, traceback)


class _Fenced:
    """Something outside the database, whose methods are called only while the lease lasts."""

    def __init__(self, guarded: Any, lease: Lease) -> None:
        self._guarded = guarded
        self._lease = lease

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._guarded, name)
        if not callable(found):
            return found

        def call(*args: Any, **named: Any) -> Any:
            self._lease.expect_held()
            return found(*args, **named)

        return call
