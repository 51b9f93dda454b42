"""What a tenant uses."""

from trellis.client._blocking import Blocking, blocking
from trellis.client._caller import Caller
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.client._names import Names
from trellis.client.types import QuotaStatus
from trellis.v1 import usage_pb2 as pb

_QUOTA = Method("UsageService/GetQuotaStatus", pb.GetQuotaStatusRequest, pb.QuotaStatus)


class AsyncUsage:
    """What a tenant uses: of its quota now, and from the ledger."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def quota(self, tenant: str | None = None) -> QuotaStatus:
        """How much of each limit of its quota a tenant, the client's own when None, uses and holds now. Raises NotFound."""
        request = pb.GetQuotaStatusRequest(name=self._names.parent(tenant))
        return from_proto(QuotaStatus, await self._caller.unary(_QUOTA, request))


class Usage(Blocking[AsyncUsage]):
    """What a tenant uses: of its quota now, and from the ledger."""

    quota = blocking(AsyncUsage.quota)
