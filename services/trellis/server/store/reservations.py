"""What is kept free for queued jobs, in the database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import delete, select

from trellis.server.app.queue_ports import Reservation
from trellis.server.store import tables
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows

_r = tables.reservations.c


class SqlReservations(Rows):
    """See queue_ports.Reservations."""

    async def all(self) -> Mapping[str, Reservation]:
        rows = await self._transaction.rows(select(tables.reservations))
        return {row.job_uid: Reservation(**named(row)) for row in rows}

    async def put(self, reservations: Sequence[Reservation]) -> None:
        await self._transaction.put_all(tables.reservations, [asdict(one) for one in reservations])

    async def delete(self, job_uids: Collection[str]) -> None:
        if job_uids:
            await self._transaction.change(delete(tables.reservations).where(_r.job_uid.in_(job_uids)))
