"""ExportService."""

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from trellis.server.app import exports
from trellis.server.app.context import Context
from trellis.server.rpc.calls import current_caller
from trellis.server.rpc.convert.export import export, file_piece, new_export
from trellis.server.rpc.servicers.requests import ServicerContext, page_query, request_key
from trellis.v1 import export_pb2 as pb
from trellis.v1.export_pb2_grpc import ExportServiceServicer


class ExportServicer(ExportServiceServicer):
    """See proto/trellis/v1/export.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def CreateExport(self, request: pb.CreateExportRequest, _: ServicerContext) -> pb.Export:
        key = request_key(request, request.request_id)
        return export(await exports.create_export(self._context, current_caller(), new_export(request), key))

    async def GetExport(self, request: pb.GetExportRequest, _: ServicerContext) -> pb.Export:
        return export(await exports.get_export(self._context, request.name))

    async def ListExports(self, request: pb.ListExportsRequest, _: ServicerContext) -> pb.ListExportsResponse:
        page = await exports.list_exports(self._context, request.parent, page_query(request))
        return pb.ListExportsResponse(exports=map(export, page.items), next_page_token=page.next_page_token)

    async def DeleteExport(self, request: pb.DeleteExportRequest, _: ServicerContext) -> Empty:
        await exports.delete_export(self._context, request.name)
        return Empty()

    async def ReadExportFile(
        self, request: pb.ReadExportFileRequest, _: ServicerContext
    ) -> AsyncIterator[pb.ReadExportFileResponse]:
        async for piece in exports.read_export_file(self._context, request.name, request.path, request.offset):
            yield file_piece(piece)
