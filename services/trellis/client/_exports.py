"""Exports: whole models to take away."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

from google.protobuf.empty_pb2 import Empty

from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import enum_number, from_proto
from trellis.client._export_failed import ExportFailed
from trellis.client._export_files import ExportDownload, Progress
from trellis.client._method import Method
from trellis.client._names import Names
from trellis.client.types import Export, ExportFormat, ExportState
from trellis.errors import FailedPrecondition, Reason
from trellis.v1 import export_pb2 as pb

_CREATE = Method("ExportService/CreateExport", pb.CreateExportRequest, pb.Export)
_GET = Method("ExportService/GetExport", pb.GetExportRequest, pb.Export)
_LIST = Method("ExportService/ListExports", pb.ListExportsRequest, pb.ListExportsResponse)
_DELETE = Method("ExportService/DeleteExport", pb.DeleteExportRequest, Empty)


class AsyncExports:
    """Whole models to take away: a base with an adapter merged into it."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def create(
        self,
        source: str,
        *,
        format: ExportFormat = ExportFormat.SAFETENSORS,  # noqa: A002 - the API's own word
        display_name: str = "",
        export_id: str = "",
        tenant: str | None = None,
        request_id: str = "",
    ) -> Export:
        """Begin to merge an adapter, an alias or a job's checkpoint into its base; the cluster does it.

        A short `source` is an adapter when it is one's id, else an alias; a checkpoint is named in full. Raises
        NotFound, InvalidArgument, FailedPrecondition (BASE_MODEL_UNAVAILABLE).
        """
        names = Names(self._names.parent(tenant).removeprefix("tenants/"))
        export = pb.Export(
            source=names.model(source),
            display_name=display_name,
            format=pb.Export.Format.ValueType(enum_number(format, pb.Export.Format.DESCRIPTOR)),
        )
        request = pb.CreateExportRequest(
            parent=names.parent(None),
            export_id=export_id,
            export=export,
            request_id=request_id or self._caller.new_request_id(),
        )
        return from_proto(Export, await self._caller.unary(_CREATE, request))

    async def get(self, name: str) -> Export:
        """Read an export. Raises NotFound."""
        request = pb.GetExportRequest(name=self._whole(name))
        return from_proto(Export, await self._caller.unary(_GET, request))

    async def list(self, *, tenant: str | None = None, page_size: int = 0) -> AsyncGenerator[Export, None]:
        """A tenant's exports, newest first."""
        request = pb.ListExportsRequest(parent=self._names.parent(tenant), page_size=page_size)
        async for page in self._caller.pages(_LIST, request):
            for item in page.exports:
                yield from_proto(Export, item)

    async def wait(self, name: str, *, timeout: float | None = None) -> Export:
        """Wait until an export's files are there. Raises ExportFailed, DeadlineExceeded after `timeout` seconds."""
        message = f"{name} was not made in time."
        export = await self._caller.poll(lambda: self.get(name), lambda found: found.state.ended, timeout, message)
        if export.state is not ExportState.SUCCEEDED:
            raise ExportFailed(export)
        return export

    async def download(
        self, name: str, folder: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> tuple[Path, ...]:
        """Write an export's files into a folder, which is made if missing; returns their paths.

        Each is checked against its sha256 before it is put in place. What an earlier download left, whole files and
        parts of one, is not sent again. `progress` is called with the bytes that are there, and all. Raises NotFound,
        FailedPrecondition unless the export SUCCEEDED, DataLoss, OSError.
        """
        export = await self.get(name)
        if export.state is not ExportState.SUCCEEDED:
            message = f"{export.name} is {export.state}; it can be downloaded when it has SUCCEEDED."
            raise FailedPrecondition(Reason.INVALID_STATE, message, metadata={"state": export.state.value})
        return await ExportDownload(self._caller, export, Path(folder), progress).run()

    async def delete(self, name: str) -> None:
        """Delete an export with its files; one that is being made is stopped. Raises NotFound."""
        await self._caller.delete(_DELETE, pb.DeleteExportRequest(name=self._whole(name)))

    def _whole(self, name: str) -> str:
        return self._names.of("exports", name)


class Exports(Blocking[AsyncExports]):
    """Whole models to take away: a base with an adapter merged into it."""

    create = blocking(AsyncExports.create)
    get = blocking(AsyncExports.get)
    list = iterating(AsyncExports.list)
    wait = blocking(AsyncExports.wait)
    download = blocking(AsyncExports.download)
    delete = blocking(AsyncExports.delete)
