"""What tenants use, as a test says."""

from typing import Any

from tests.fake_server.accounts import Tenants, found
from trellis.v1 import usage_pb2 as pb
from trellis.v1.usage_pb2_grpc import UsageServiceServicer


class Usage(UsageServiceServicer):
    def __init__(self, tenants: Tenants) -> None:
        self.tenants = tenants
        self.limits: list[pb.LimitStatus] = []

    def GetQuotaStatus(self, request: Any, context: Any) -> Any:
        tenant = found(self.tenants.tenants, request.name, context)
        return pb.QuotaStatus(tenant=tenant.name, quota=tenant.quota, limits=self.limits)
