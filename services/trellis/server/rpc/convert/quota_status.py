"""How much of a quota is used."""

from trellis.names import TenantName
from trellis.server.app.quota_status import LimitStatus, QuotaStatus
from trellis.server.rpc.convert.quota import quota
from trellis.server.rpc.convert.times import timestamp
from trellis.v1 import usage_pb2 as pb


def quota_status(value: QuotaStatus) -> pb.QuotaStatus:
    """The whole answer."""
    name = str(TenantName(value.tenant.tenant_id))
    return pb.QuotaStatus(tenant=name, quota=quota(value.tenant.quota), limits=map(_limit, value.limits))


def _limit(value: LimitStatus) -> pb.LimitStatus:
    return pb.LimitStatus(
        limit=value.limit,
        allowed=value.allowed,
        soft=value.soft,
        used=value.used,
        held=value.held,
        period_end_time=timestamp(value.period_end),
    )
