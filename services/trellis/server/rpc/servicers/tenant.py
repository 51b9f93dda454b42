"""TenantService."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from trellis.server.app import tenants
from trellis.server.app.context import Context
from trellis.server.rpc.convert.quota import asked_quota
from trellis.server.rpc.convert.tenant import tenant
from trellis.server.rpc.servicers.requests import ServicerContext, page_query, request_key
from trellis.v1 import tenant_pb2 as pb
from trellis.v1.tenant_pb2_grpc import TenantServiceServicer


class TenantServicer(TenantServiceServicer):
    """See proto/trellis/v1/tenant.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def CreateTenant(self, request: pb.CreateTenantRequest, _: ServicerContext) -> pb.Tenant:
        key = request_key(request, request.request_id)
        made = await tenants.create_tenant(self._context, request.tenant_id, key=key, **_wanted(request.tenant))
        return tenant(made)

    async def GetTenant(self, request: pb.GetTenantRequest, _: ServicerContext) -> pb.Tenant:
        return tenant(await tenants.get_tenant(self._context, request.name))

    async def ListTenants(self, request: pb.ListTenantsRequest, _: ServicerContext) -> pb.ListTenantsResponse:
        page = await tenants.list_tenants(self._context, page_query(request))
        return pb.ListTenantsResponse(tenants=map(tenant, page.items), next_page_token=page.next_page_token)

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, _: ServicerContext) -> pb.Tenant:
        sent = request.tenant
        mask = tuple(request.update_mask.paths)
        return tenant(await tenants.update_tenant(self._context, sent.name, sent.etag, _wanted(sent), mask))

    async def DeleteTenant(self, request: pb.DeleteTenantRequest, _: ServicerContext) -> Empty:
        await tenants.delete_tenant(self._context, request.name, request.etag, force=request.force)
        return Empty()


def _wanted(sent: pb.Tenant) -> dict[str, Any]:
    """What of a tenant its admins choose."""
    return {
        "display_name": sent.display_name,
        "serving_weight": sent.serving_weight,
        "training_weight": sent.training_weight,
        "cohort": sent.cohort,
        "quota": asked_quota(sent.quota) if sent.HasField("quota") else None,
    }
