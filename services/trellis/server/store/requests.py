"""The creates that were answered, in the database."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, select, tuple_

from trellis.errors import AlreadyExists, Reason
from trellis.names import tenant_of
from trellis.server.domain.remembered_request import RememberedRequest
from trellis.server.store import tables
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows

_r = tables.requests.c


class SqlRequests(Rows):
    """See ports.Requests."""

    async def get(self, scope: str, request_id: str) -> RememberedRequest | None:
        columns = (_r.scope, _r.request_id, _r.fingerprint, _r.resource, _r.create_time)
        row = await self._transaction.row(select(*columns).where(_r.scope == scope, _r.request_id == request_id))
        return RememberedRequest(**named(row)) if row else None

    async def add(self, request: RememberedRequest) -> None:
        values = {**asdict(request), "tenant": tenant_of(request.resource)}
        if not await self._transaction.add(tables.requests, values):
            message = f"Another request had the request_id {request.request_id!r} before."
            raise AlreadyExists(Reason.REQUEST_ID_REUSED, message, metadata={"request_id": request.request_id})

    async def prune(self, before: datetime, limit: int) -> int:
        key = (_r.scope, _r.request_id)
        old = select(*key).where(_r.create_time < before).order_by(_r.create_time).limit(limit)
        return await self._transaction.change(delete(tables.requests).where(tuple_(*key).in_(old)))
