"""The audit trail: for tenant admins their tenant's, for admins all of it."""

from collections.abc import AsyncGenerator
from datetime import datetime

from trellis.client._blocking import Blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.client._names import Names
from trellis.client.types import AuditEvent
from trellis.v1 import audit_pb2 as pb

_LIST = Method("AuditService/ListAuditEvents", pb.ListAuditEventsRequest, pb.ListAuditEventsResponse)


class AsyncAudit:
    """Who did what to what."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def list(
        self,
        parent: str | None = None,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        principal: str = "",
        method: str = "",
        resource: str = "",
        after_sequence: int | None = None,
        page_size: int = 0,
    ) -> AsyncGenerator[AuditEvent, None]:
        """Events, newest first; with `after_sequence` those that come after it, oldest first.

        `parent` is a tenant, the client's own when None; for admins also `platform` for what touched no tenant, and `-`
        for everything. `method` is a method's full name or its last part; `resource` stands for what belongs to it, too.
        Raises PermissionDenied, InvalidArgument, and ValueError for a time without a time zone.
        """
        request = pb.ListAuditEventsRequest(
            parent=self._names.keys_parent(parent),
            principal=principal,
            method=method,
            resource=resource,
            after_sequence=after_sequence,
            page_size=page_size,
        )
        for field, moment in (("start_time", start_time), ("end_time", end_time)):
            if moment is not None:
                if moment.tzinfo is None:
                    raise ValueError(f"{field} must have a time zone.")
                getattr(request, field).FromDatetime(moment)
        async for page in self._caller.pages(_LIST, request):
            for item in page.events:
                yield from_proto(AuditEvent, item)


class Audit(Blocking[AsyncAudit]):
    """Who did what to what."""

    list = iterating(AsyncAudit.list)
