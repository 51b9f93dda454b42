"""Tenants: for the platform's admins."""

from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty

from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import fill, from_proto
from trellis.client._method import Method
from trellis.client._names import Names, tenant_name
from trellis.client.types import Quota, Tenant
from trellis.errors import InvalidArgument
from trellis.v1 import tenant_pb2 as pb

_CREATE = Method("TenantService/CreateTenant", pb.CreateTenantRequest, pb.Tenant)
_GET = Method("TenantService/GetTenant", pb.GetTenantRequest, pb.Tenant)
_LIST = Method("TenantService/ListTenants", pb.ListTenantsRequest, pb.ListTenantsResponse)
_UPDATE = Method("TenantService/UpdateTenant", pb.UpdateTenantRequest, pb.Tenant)
_DELETE = Method("TenantService/DeleteTenant", pb.DeleteTenantRequest, Empty)


class AsyncTenants:
    """The teams that share the platform."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def create(
        self,
        tenant_id: str,
        *,
        display_name: str = "",
        serving_weight: float = 0.0,
        training_weight: float = 0.0,
        cohort: str = "",
        quota: Quota | None = None,
        request_id: str = "",
    ) -> Tenant:
        """Create a tenant; `tenant_id` is the last part of its name.

        `serving_weight` is its share of an engine's work beside others and `training_weight` its share of training, each
        0.01 to 100 and 1 when 0. Tenants of one `cohort` lend each other unused accelerators. Without a `quota` nothing
        binds it. Raises AlreadyExists, InvalidArgument.
        """
        tenant = pb.Tenant(
            display_name=display_name, serving_weight=serving_weight, training_weight=training_weight, cohort=cohort
        )
        if quota is not None:
            fill(tenant.quota, quota)
        request = pb.CreateTenantRequest(
            tenant_id=tenant_id, tenant=tenant, request_id=request_id or self._caller.new_request_id()
        )
        return from_proto(Tenant, await self._caller.unary(_CREATE, request))

    async def get(self, name: str) -> Tenant:
        """Read a tenant. Raises NotFound."""
        return from_proto(Tenant, await self._caller.unary(_GET, pb.GetTenantRequest(name=tenant_name(name))))

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[Tenant, None]:
        """All tenants, oldest first; pages are fetched as they are needed."""
        async for page in self._caller.pages(_LIST, pb.ListTenantsRequest(page_size=page_size)):
            for item in page.tenants:
                yield from_proto(Tenant, item)

    async def update(
        self,
        name: str,
        *,
        display_name: str | None = None,
        serving_weight: float | None = None,
        training_weight: float | None = None,
        cohort: str | None = None,
        quota: Quota | None = None,
        etag: str = "",
    ) -> Tenant:
        """Change what is not None; a weight of 0 is the default again, and `quota` replaces the whole quota.

        Raises NotFound, InvalidArgument; Aborted when `etag` is an old one.
        """
        changes = {
            "display_name": display_name,
            "serving_weight": serving_weight,
            "training_weight": training_weight,
            "cohort": cohort,
        }
        request = pb.UpdateTenantRequest(tenant=pb.Tenant(name=tenant_name(name), etag=etag))
        for field, value in changes.items():
            if value is not None:
                setattr(request.tenant, field, value)
                request.update_mask.paths.append(field)
        if quota is not None:
            request.tenant.quota.SetInParent()
            fill(request.tenant.quota, quota)
            request.update_mask.paths.append("quota")
        if not request.update_mask.paths:
            fields = ", ".join(f"`{field}`" for field in changes)
            raise InvalidArgument.for_field("update_mask", f"Give one of {fields} and `quota`.")
        return from_proto(Tenant, await self._caller.unary(_UPDATE, request))

    async def delete(self, name: str, *, etag: str = "", force: bool = False) -> None:
        """Delete a tenant; with `force` everything that it has as well. Raises NotFound, FailedPrecondition, Aborted."""
        await self._caller.delete(_DELETE, pb.DeleteTenantRequest(name=tenant_name(name), etag=etag, force=force))


class Tenants(Blocking[AsyncTenants]):
    """The teams that share the platform."""

    create = blocking(AsyncTenants.create)
    get = blocking(AsyncTenants.get)
    list = iterating(AsyncTenants.list)
    update = blocking(AsyncTenants.update)
    delete = blocking(AsyncTenants.delete)
