"""Leases in the database: what one server at a time does."""

from datetime import datetime

from sqlalchemy import delete, or_, select, update

from trellis.server.app.ports import Claim
from trellis.server.store import tables
from trellis.server.store.transaction import Rows, for_update as locked

_l = tables.leases.c


class SqlLeases(Rows):
    """See ports.Leases."""

    async def acquire(self, name: str, claim: Claim, now: datetime) -> bool:
        values = {"holder": claim.token, "expire_time": claim.expire_time}
        if await self._transaction.add(tables.leases, {"name": name, **values}):
            return True
        takes = update(tables.leases).where(_l.name == name, or_(_l.holder == claim.token, _l.expire_time <= now))
        return await self._transaction.change(takes.values(values)) == 1

    async def renew(self, name: str, claim: Claim) -> bool:
        held = update(tables.leases).where(_l.name == name, _l.holder == claim.token)
        return await self._transaction.change(held.values(expire_time=claim.expire_time)) == 1

    async def expire_time(self, name: str) -> datetime | None:
        row = await self._transaction.row(select(_l.expire_time).where(_l.name == name))
        return row.expire_time if row else None

    async def holds(self, name: str, token: str) -> bool:
        held = select(_l.name).where(_l.name == name, _l.holder == token)
        return await self._transaction.row(locked(held)) is not None

    async def release_all(self) -> None:
        await self._transaction.change(delete(tables.leases))

    async def release(self, name: str, token: str) -> None:
        await self._transaction.change(delete(tables.leases).where(_l.name == name, _l.holder == token))
