"""Aliases: names for adapters, which may move."""

from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty

from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.client._names import Names
from trellis.client.types import Alias
from trellis.v1 import adapter_pb2 as pb

_SET = Method("AdapterService/SetAlias", pb.SetAliasRequest, pb.Alias)
_GET = Method("AdapterService/GetAlias", pb.GetAliasRequest, pb.Alias)
_LIST = Method("AdapterService/ListAliases", pb.ListAliasesRequest, pb.ListAliasesResponse)
_DELETE = Method("AdapterService/DeleteAlias", pb.DeleteAliasRequest, Empty)


class AsyncAliases:
    """Names for adapters, which may move."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def set(self, name: str, adapter: str, *, etag: str = "") -> Alias:
        """Point an alias at an adapter, from the next call on. Raises NotFound; Aborted when `etag` is an old one."""
        alias = pb.Alias(name=self._names.of("aliases", name), adapter=self._names.of("adapters", adapter), etag=etag)
        return from_proto(Alias, await self._caller.unary(_SET, pb.SetAliasRequest(alias=alias)))

    async def get(self, name: str) -> Alias:
        """Read an alias. Raises NotFound."""
        request = pb.GetAliasRequest(name=self._names.of("aliases", name))
        return from_proto(Alias, await self._caller.unary(_GET, request))

    async def list(self, *, tenant: str | None = None, page_size: int = 0) -> AsyncGenerator[Alias, None]:
        """A tenant's aliases, by name."""
        request = pb.ListAliasesRequest(parent=self._names.parent(tenant), page_size=page_size)
        async for page in self._caller.pages(_LIST, request):
            for item in page.aliases:
                yield from_proto(Alias, item)

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Delete an alias; its adapter stays. Raises NotFound, Aborted."""
        await self._caller.delete(_DELETE, pb.DeleteAliasRequest(name=self._names.of("aliases", name), etag=etag))


class Aliases(Blocking[AsyncAliases]):
    """Names for adapters, which may move."""

    set = blocking(AsyncAliases.set)
    get = blocking(AsyncAliases.get)
    list = iterating(AsyncAliases.list)
    delete = blocking(AsyncAliases.delete)
