"""Datasets, versions and uploads."""

from typing import Any

from trellis.formats import FileFormat
from trellis.names import DatasetVersionName
from trellis.server.app.datasets import dataset_name
from trellis.server.app.etags import etag_of
from trellis.server.app.uploads import FoundUpload, NewVersion
from trellis.server.domain.dataset import Dataset, DatasetVersion
from trellis.server.rpc.convert.enums import from_wire, to_wire
from trellis.server.rpc.convert.times import timestamp
from trellis.v1 import dataset_pb2 as pb


def dataset(value: Dataset) -> pb.Dataset:
    """The dataset on the wire."""
    name = dataset_name(value)
    latest = value.latest_sha256
    return pb.Dataset(
        name=name,
        display_name=value.display_name,
        latest_version=str(DatasetVersionName(value.tenant, value.dataset_id, latest)) if latest else "",
        create_time=timestamp(value.create_time),
        update_time=timestamp(value.update_time),
        etag=etag_of(name, value.create_time, value.revision),
    )


def dataset_version(value: DatasetVersion) -> pb.DatasetVersion:
    """The version on the wire."""
    return pb.DatasetVersion(
        name=value.name,
        state=to_wire(pb.DatasetVersion.State, "STATE_", value.state),
        filename=value.filename,
        format=file_format(value.file_format),
        size_bytes=value.size_bytes,
        sha256=value.sha256,
        kind=example_kind(value.kind),
        line_count=value.line_count,
        summary=value.summary,
        create_time=timestamp(value.create_time),
        base_model=value.base_model,
    )


def file_format(value: str) -> Any:
    """The layout on the wire, which does not tell compressed files from others."""
    name = value.removesuffix(".gz").upper()
    return pb.FileFormat.Value(f"FILE_FORMAT_{name}")


def example_kind(value: str) -> Any:
    """What lines are, on the wire."""
    return pb.ExampleKind.Value(f"EXAMPLE_KIND_{(value or 'unspecified').upper()}")


def upload(value: FoundUpload) -> pb.Upload:
    """What is held of a file, on the wire."""
    return pb.Upload(
        parent=str(value.dataset),
        sha256=value.sha256,
        size_bytes=value.size_bytes,
        committed_bytes=value.committed_bytes,
        dataset_version=value.version.name if value.version else "",
    )


def new_version(header: pb.UploadDatasetVersionRequest.Header) -> NewVersion:
    """What an upload announces."""
    return NewVersion(
        parent=header.parent,
        filename=header.filename,
        size_bytes=header.size_bytes,
        sha256=header.sha256,
        offset=header.offset,
        file_format=from_wire(pb.FileFormat, "FILE_FORMAT_", FileFormat, header.format, "header.format"),
        base_model=header.base_model,
        allow_missing=header.allow_missing,
    )
