"""Token buckets in the database, which all servers take from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, select

from trellis.server.domain.rate import Bucket, RateKind
from trellis.server.store import tables
from trellis.server.store.transaction import Rows, for_update as locked

_r = tables.rate_buckets.c


def _read(rows: Sequence[Row[Any]]) -> dict[RateKind, Bucket]:
    return {RateKind(row.kind): Bucket(row.level, row.time) for row in rows}


def _rows(tenant: str, buckets: Mapping[RateKind, Bucket]) -> list[dict[str, Any]]:
    return [{"tenant": tenant, "kind": kind.value, **asdict(buckets[kind])} for kind in sorted(buckets)]


class SqlRateBuckets(Rows):
    """See quota_ports.RateBuckets."""

    async def lock(self, tenant: str, full: Mapping[RateKind, Bucket]) -> dict[RateKind, Bucket]:
        found = await self._lock(tenant)
        missing = full.keys() - found.keys()
        if not missing:
            return found
        # Of two servers that miss them, the slower one waits for the faster one's rows, and finds them.
        await self._transaction.add_all(tables.rate_buckets, _rows(tenant, {kind: full[kind] for kind in missing}))
        return await self._lock(tenant)

    async def get(self, tenant: str) -> Mapping[RateKind, Bucket]:
        return _read(await self._transaction.rows(select(tables.rate_buckets).where(_r.tenant == tenant)))

    async def put(self, tenant: str, buckets: Mapping[RateKind, Bucket]) -> None:
        await self._transaction.put_all(tables.rate_buckets, _rows(tenant, buckets))

    async def _lock(self, tenant: str) -> dict[RateKind, Bucket]:
        statement = select(tables.rate_buckets).where(_r.tenant == tenant).order_by(_r.kind)
        return _read(await self._transaction.rows(locked(statement)))
