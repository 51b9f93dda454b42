"""What tenants use: of their quota now, and from the ledger."""

from collections.abc import AsyncGenerator, Collection
from datetime import datetime
from typing import Any

from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import enum_number, from_proto
from trellis.client._method import Method
from trellis.client._names import Names
from trellis.client.types import LedgerEntry, QuotaStatus, Statement, UsageGroup, UsageRow
from trellis.v1 import usage_pb2 as pb

_QUOTA = Method("UsageService/GetQuotaStatus", pb.GetQuotaStatusRequest, pb.QuotaStatus)
_QUERY = Method("UsageService/QueryUsage", pb.QueryUsageRequest, pb.QueryUsageResponse)
_ENTRIES = Method("UsageService/ListLedgerEntries", pb.ListLedgerEntriesRequest, pb.ListLedgerEntriesResponse)
_STATEMENT = Method("UsageService/GetStatement", pb.GetStatementRequest, pb.Statement)
_GROUP = pb.QueryUsageRequest.Group.DESCRIPTOR


class AsyncUsage:
    """What a tenant, the client's own when None, uses: of its quota now, and from the ledger, where `-` is all for admins."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def quota(self, tenant: str | None = None) -> QuotaStatus:
        """How much of each limit of its quota a tenant uses and holds now. Raises NotFound."""
        request = pb.GetQuotaStatusRequest(name=self._names.parent(tenant))
        return from_proto(QuotaStatus, await self._caller.unary(_QUOTA, request))

    async def query(
        self,
        tenant: str | None = None,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        group_by: Collection[UsageGroup] = (),
        page_size: int = 0,
    ) -> AsyncGenerator[UsageRow, None]:
        """Sums in whole hours, from the beginning of the month until now unless said otherwise, by meter, price and these
        groups. Raises InvalidArgument, NotFound, and ValueError for a time without a time zone.
        """
        groups: list[Any] = [enum_number(group, _GROUP) for group in group_by]
        request = pb.QueryUsageRequest(parent=self._names.parent(tenant), group_by=groups, page_size=page_size)
        _set_times(request, start_time, end_time)
        async for page in self._caller.pages(_QUERY, request):
            for item in page.rows:
                yield from_proto(UsageRow, item)

    async def entries(
        self,
        tenant: str | None = None,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        tuning_job: str = "",
        page_size: int = 0,
    ) -> AsyncGenerator[LedgerEntry, None]:
        """The ledger's entries, by time and then sequence; of `tuning_job` only those for this job.

        Raises InvalidArgument, NotFound, and ValueError for a time without a time zone.
        """
        request = pb.ListLedgerEntriesRequest(
            parent=self._names.parent(tenant),
            tuning_job=self._names.optional("tuningJobs", tuning_job),
            page_size=page_size,
        )
        _set_times(request, start_time, end_time)
        async for page in self._caller.pages(_ENTRIES, request):
            for item in page.entries:
                yield from_proto(LedgerEntry, item)

    async def statement(
        self, tenant: str | None = None, *, start_time: datetime | None = None, end_time: datetime | None = None
    ) -> Statement:
        """What the tenant owes for a time, from the beginning of the month until now unless said otherwise.

        It is computed from all entries of that time, which may take a while. Raises InvalidArgument, NotFound, and
        ValueError for a time without a time zone.
        """
        request = pb.GetStatementRequest(name=self._names.parent(tenant))
        _set_times(request, start_time, end_time)
        return from_proto(Statement, await self._caller.unary(_STATEMENT, request))


class Usage(Blocking[AsyncUsage]):
    """What a tenant, the client's own when None, uses: of its quota now, and from the ledger, where `-` is all for admins."""

    quota = blocking(AsyncUsage.quota)
    query = iterating(AsyncUsage.query)
    entries = iterating(AsyncUsage.entries)
    statement = blocking(AsyncUsage.statement)


def _set_times(request: Any, start_time: datetime | None, end_time: datetime | None) -> None:
    for field, moment in (("start_time", start_time), ("end_time", end_time)):
        if moment is not None:
            if moment.tzinfo is None:
                raise ValueError(f"{field} must have a time zone.")
            getattr(request, field).FromDatetime(moment)
