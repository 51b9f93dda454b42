"""AdapterService."""

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from trellis.errors import InvalidArgument
from trellis.server.app import adapters, imports, shares
from trellis.server.app.context import Context
from trellis.server.app.imports import ImportedFile
from trellis.server.rpc.calls import current_caller
from trellis.server.rpc.convert.adapter import adapter, alias, file_header, import_header, imported_file, share
from trellis.server.rpc.servicers.requests import ServicerContext, page_query
from trellis.v1 import adapter_pb2 as pb
from trellis.v1.adapter_pb2_grpc import AdapterServiceServicer


class AdapterServicer(AdapterServiceServicer):
    """See proto/trellis/v1/adapter.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def GetAdapter(self, request: pb.GetAdapterRequest, _: ServicerContext) -> pb.Adapter:
        return adapter(await shares.visible_adapter(self._context, current_caller(), request.name))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, _: ServicerContext) -> pb.ListAdaptersResponse:
        page = await adapters.list_adapters(self._context, request.parent, page_query(request))
        found = [adapter(item, with_manifest=False) for item in page.items]
        return pb.ListAdaptersResponse(adapters=found, next_page_token=page.next_page_token)

    async def ImportAdapter(
        self, request_iterator: AsyncIterator[pb.ImportAdapterRequest], _: ServicerContext
    ) -> pb.Adapter:
        first = await anext(aiter(request_iterator))
        if not first.HasField("header"):
            raise InvalidArgument.for_field("header", "The first message must be the header.")
        header = import_header(first.header)
        return adapter(await imports.import_adapter(self._context, header, _parts(request_iterator)))

    async def DownloadAdapter(
        self, request: pb.DownloadAdapterRequest, _: ServicerContext
    ) -> AsyncIterator[pb.DownloadAdapterResponse]:
        async for file in adapters.download_adapter(self._context, request.name):
            yield file_header(file)
            async for piece in file.pieces:
                yield pb.DownloadAdapterResponse(chunk=piece)

    async def DeleteAdapter(self, request: pb.DeleteAdapterRequest, _: ServicerContext) -> Empty:
        await adapters.delete_adapter(self._context, request.name, request.etag)
        return Empty()

    async def DeployAdapter(self, request: pb.DeployAdapterRequest, _: ServicerContext) -> pb.Adapter:
        return adapter(await adapters.deploy_adapter(self._context, request.name))

    async def UndeployAdapter(self, request: pb.UndeployAdapterRequest, _: ServicerContext) -> pb.Adapter:
        return adapter(await adapters.undeploy_adapter(self._context, request.name))

    async def SetAlias(self, request: pb.SetAliasRequest, _: ServicerContext) -> pb.Alias:
        wanted = request.alias
        return alias(
            await adapters.set_alias(self._context, current_caller(), wanted.name, wanted.adapter, wanted.etag)
        )

    async def GetAlias(self, request: pb.GetAliasRequest, _: ServicerContext) -> pb.Alias:
        return alias(await adapters.get_alias(self._context, request.name))

    async def ListAliases(self, request: pb.ListAliasesRequest, _: ServicerContext) -> pb.ListAliasesResponse:
        page = await adapters.list_aliases(self._context, request.parent, page_query(request))
        return pb.ListAliasesResponse(aliases=map(alias, page.items), next_page_token=page.next_page_token)

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, _: ServicerContext) -> Empty:
        await adapters.delete_alias(self._context, request.name, request.etag)
        return Empty()

    async def ShareAdapter(self, request: pb.ShareAdapterRequest, _: ServicerContext) -> pb.AdapterShare:
        return share(await shares.share_adapter(self._context, request.name, request.tenant))

    async def RevokeAdapterShare(self, request: pb.RevokeAdapterShareRequest, _: ServicerContext) -> Empty:
        await shares.revoke_share(self._context, request.name, request.tenant)
        return Empty()

    async def ListAdapterShares(
        self, request: pb.ListAdapterSharesRequest, _: ServicerContext
    ) -> pb.ListAdapterSharesResponse:
        page = await shares.list_shares(self._context, request.parent, page_query(request))
        return pb.ListAdapterSharesResponse(shares=map(share, page.items), next_page_token=page.next_page_token)

    async def ListSharedAdapters(
        self, request: pb.ListSharedAdaptersRequest, _: ServicerContext
    ) -> pb.ListSharedAdaptersResponse:
        page = await shares.list_shared_adapters(self._context, request.parent, page_query(request))
        found = [adapter(item, with_manifest=False) for item in page.items]
        return pb.ListSharedAdaptersResponse(adapters=found, next_page_token=page.next_page_token)


async def _parts(requests: AsyncIterator[pb.ImportAdapterRequest]) -> AsyncIterator[ImportedFile | bytes]:
    async for request in requests:
        match request.WhichOneof("part"):
            case "file":
                yield imported_file(request.file)
            case "chunk":
                yield request.chunk
            case _:
                raise InvalidArgument.for_field("part", "After the header only files and chunks may come.")
