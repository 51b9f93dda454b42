"""What tenants have had, in the database."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import select

from trellis.server.domain.fair_share import FairShare
from trellis.server.store import tables
from trellis.server.store.in_play import tenants_in_play
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows

_f = tables.fair_shares.c


class SqlFairShares(Rows):
    """See queue_ports.FairShares."""

    async def of_waiting(self) -> Mapping[str, FairShare]:
        statement = select(tables.fair_shares).where(_f.tenant.in_(tenants_in_play()))
        return {row.tenant: FairShare(**named(row)) for row in await self._transaction.rows(statement)}

    async def put(self, shares: Sequence[FairShare]) -> None:
        # In one order everywhere, so that two transactions can't wait for each other.
        rows = [asdict(share) for share in sorted(shares, key=lambda share: share.tenant)]
        await self._transaction.put_all(tables.fair_shares, rows)
