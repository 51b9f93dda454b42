"""Exports in memory, made at once or after a few looks."""

import hashlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.rpc.code_pb2 import INTERNAL

from tests.fake_server.accounts import found
from tests.fake_server.faults import abort
from tests.fake_server.pages import page_of
from trellis.errors import AlreadyExists, Unavailable
from trellis.v1 import export_pb2 as pb
from trellis.v1.export_pb2_grpc import ExportServiceServicer

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40, "templates/tool.jinja": b"{{ x }}"}


class Exports(ExportServiceServicer):
    def __init__(self) -> None:
        self.exports: dict[str, pb.Export] = {}
        self.created: dict[str, str] = {}
        self.files = dict(FILES)
        self.polls_until_made = 1
        self.fails = ""
        """With what exports fail; empty for not."""
        self.spoiled = False
        """Whether downloads bring other bytes than are listed."""
        self.piece_bytes = 1000
        self.cut_reads = 0
        """So many reads are cut after their first piece."""
        self.offsets: list[tuple[str, int]] = []
        """Where each read began."""

    def CreateExport(self, request: Any, context: Any) -> Any:
        if request.request_id in self.created:
            return self.exports[self.created[request.request_id]]
        name = f"{request.parent}/exports/{request.export_id or f'export-{len(self.exports)}'}"
        if name in self.exports:
            abort(context, AlreadyExists("RESOURCE_EXISTS", f"{name} exists."))
        export = pb.Export()
        export.CopyFrom(request.export)
        export.name, export.state, export.base_model = name, pb.Export.STATE_PENDING, "baseModels/tiny"
        export.create_time.FromJsonString("2026-01-02T03:04:05Z")
        self.exports[name], self.created[request.request_id] = export, name
        return export

    def GetExport(self, request: Any, context: Any) -> Any:
        export = found(self.exports, request.name, context)
        if export.state in {pb.Export.STATE_PENDING, pb.Export.STATE_RUNNING}:
            export.state = pb.Export.STATE_RUNNING
            self.polls_until_made -= 1
            if self.polls_until_made < 0:
                self._finish(export)
        return export

    def _finish(self, export: Any) -> None:
        export.end_time.FromJsonString("2026-01-02T03:05:05Z")
        if self.fails:
            export.state = pb.Export.STATE_FAILED
            export.error.code, export.error.message = INTERNAL, self.fails
            return
        export.state = pb.Export.STATE_SUCCEEDED
        for path, data in self.files.items():
            export.files.add(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        export.size_bytes = sum(map(len, self.files.values()))

    def ListExports(self, request: Any, context: Any) -> Any:
        mine = [e for e in self.exports.values() if e.name.startswith(request.parent + "/")]
        exports, token = page_of(mine, request)
        return pb.ListExportsResponse(exports=exports, next_page_token=token)

    def DeleteExport(self, request: Any, context: Any) -> Any:
        del self.exports[found(self.exports, request.name, context).name]
        return Empty()

    def ReadExportFile(self, request: Any, context: Any) -> Iterator[Any]:
        found(self.exports, request.name, context)
        self.offsets.append((request.path, request.offset))
        data = self.files[request.path]
        if self.spoiled:
            data = bytes(byte ^ 1 for byte in data)
        for start in range(request.offset, len(data), self.piece_bytes):
            yield pb.ReadExportFileResponse(data=data[start : start + self.piece_bytes], offset=start)
            if self.cut_reads:
                self.cut_reads -= 1
                abort(context, Unavailable("SERVER_STOPPING", "The server is stopping."))
