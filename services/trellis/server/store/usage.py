"""What was measured, in the database."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import func, select

from trellis.server.app.ports import UsageRecord
from trellis.server.store import tables
from trellis.server.store.transaction import Rows

_u = tables.usage_records.c


class SqlUsage(Rows):
    """See ports.Usage."""

    async def add(self, records: Sequence[UsageRecord]) -> None:
        # In one order everywhere, so that two transactions with the same keys can't wait for each other.
        rows = [asdict(record) for record in sorted(records, key=lambda record: (record.tenant, record.key))]
        await self._transaction.add_all(tables.usage_records, rows)

    async def totals(self, tenant: str) -> dict[str, float]:
        statement = select(_u.kind, func.sum(_u.quantity).label("total")).where(_u.tenant == tenant).group_by(_u.kind)
        return {row.kind: float(row.total) for row in await self._transaction.rows(statement)}
