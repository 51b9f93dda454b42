"""Exports."""

from typing import Any

from trellis.server.app.exports import FilePiece, NewExport
from trellis.server.domain.export import Export, ExportFormat
from trellis.server.rpc.convert.enums import from_wire, to_wire
from trellis.server.rpc.convert.times import timestamp
from trellis.server.rpc.statuses import job_status
from trellis.v1 import export_pb2 as pb


def export(value: Export) -> pb.Export:
    """The export on the wire."""
    return pb.Export(
        name=value.name,
        display_name=value.display_name,
        source=value.source,
        format=to_wire(pb.Export.Format, "FORMAT_", value.format),
        state=to_wire(pb.Export.State, "STATE_", value.state),
        error=_error(value),
        base_model=value.base_model,
        files=[pb.Export.File(path=f.path, size_bytes=f.size_bytes, sha256=f.sha256) for f in value.files],
        size_bytes=sum(file.size_bytes for file in value.files),
        create_time=timestamp(value.create_time),
        end_time=timestamp(value.end_time),
    )


def new_export(request: pb.CreateExportRequest) -> NewExport:
    """The export to make."""
    wanted = request.export
    return NewExport(
        parent=request.parent,
        source=wanted.source,
        export_id=request.export_id,
        display_name=wanted.display_name,
        format=from_wire(pb.Export.Format, "FORMAT_", ExportFormat, wanted.format, "export.format"),
    )


def file_piece(value: FilePiece) -> pb.ReadExportFileResponse:
    """A piece of a file, on the wire."""
    return pb.ReadExportFileResponse(data=value.data, offset=value.offset)


def _error(value: Export) -> Any:
    error = value.error
    return None if error is None else job_status(error.reason, error.message, error.metadata)
