"""Tenants: for the platform's admins."""

from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty

from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.client._names import Names, tenant_name
from trellis.client.types import Tenant
from trellis.v1 import tenant_pb2 as pb

_CREATE = Method("TenantService/CreateTenant", pb.CreateTenantRequest, pb.Tenant)
_GET = Method("TenantService/GetTenant", pb.GetTenantRequest, pb.Tenant)
_LIST = Method("TenantService/ListTenants", pb.ListTenantsRequest, pb.ListTenantsResponse)
_DELETE = Method("TenantService/DeleteTenant", pb.DeleteTenantRequest, Empty)


class AsyncTenants:
    """The teams that share the platform."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def create(self, tenant_id: str, *, display_name: str = "", request_id: str = "") -> Tenant:
        """Create a tenant; `tenant_id` is the last part of its name. Raises AlreadyExists."""
        request = pb.CreateTenantRequest(
            tenant_id=tenant_id,
            tenant=pb.Tenant(display_name=display_name),
            request_id=request_id or self._caller.new_request_id(),
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

    async def delete(self, name: str, *, etag: str = "", force: bool = False) -> None:
        """Delete a tenant; with `force` everything that it has as well. Raises NotFound, FailedPrecondition, Aborted."""
        await self._caller.delete(_DELETE, pb.DeleteTenantRequest(name=tenant_name(name), etag=etag, force=force))


class Tenants(Blocking[AsyncTenants]):
    """The teams that share the platform."""

    create = blocking(AsyncTenants.create)
    get = blocking(AsyncTenants.get)
    list = iterating(AsyncTenants.list)
    delete = blocking(AsyncTenants.delete)
