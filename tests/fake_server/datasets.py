"""Datasets in memory; uploads may be cut."""

import hashlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.empty_pb2 import Empty

from tests.fake_server.accounts import found
from tests.fake_server.faults import abort
from tests.fake_server.pages import page_of
from trellis.errors import Aborted, DataLoss, FailedPrecondition, NotFound, Unavailable
from trellis.v1 import dataset_pb2 as pb
from trellis.v1.dataset_pb2_grpc import DatasetServiceServicer


class Datasets(DatasetServiceServicer):
    def __init__(self) -> None:
        self.datasets: dict[str, pb.Dataset] = {}
        self.versions: dict[str, pb.DatasetVersion] = {}
        self.files: dict[str, bytes] = {}
        self.partial: dict[tuple[str, str], bytearray] = {}
        self.cut_after: list[int] = []
        """Each upload ends after so many bytes of its own, as if the connection broke; then whole ones."""
        self.cut_downloads: list[int] = []
        self.polls_until_ready = 1
        self.report: pb.DatasetReport = pb.DatasetReport(state=pb.DatasetReport.STATE_DONE, valid=True, summary="Fine.")
        self.offsets: list[int] = []

    def CreateDataset(self, request: Any, context: Any) -> Any:
        name = f"{request.parent}/datasets/{request.dataset_id}"
        self.datasets[name] = pb.Dataset(name=name, display_name=request.dataset.display_name)
        return self.datasets[name]

    def GetDataset(self, request: Any, context: Any) -> Any:
        return found(self.datasets, request.name, context)

    def ListDatasets(self, request: Any, context: Any) -> Any:
        mine = [d for d in self.datasets.values() if d.name.startswith(request.parent + "/")]
        datasets, token = page_of(mine, request)
        return pb.ListDatasetsResponse(datasets=datasets, next_page_token=token)

    def DeleteDataset(self, request: Any, context: Any) -> Any:
        del self.datasets[found(self.datasets, request.name, context).name]
        return Empty()

    def GetUpload(self, request: Any, context: Any) -> Any:
        held = self.partial.get((request.parent, request.sha256))
        if held is None:
            abort(context, NotFound.for_resource(f"{request.parent} {request.sha256}"))
        return pb.Upload(parent=request.parent, sha256=request.sha256, committed_bytes=len(held or b""))

    def UploadDatasetVersion(self, request_iterator: Iterator[Any], context: Any) -> Any:
        header = next(request_iterator).header
        if header.parent not in self.datasets and not header.allow_missing:
            abort(context, NotFound.for_resource(header.parent))
        held = self.partial.setdefault((header.parent, header.sha256), bytearray())
        self.offsets.append(header.offset)
        if header.offset != len(held):
            abort(context, FailedPrecondition("UPLOAD_OFFSET_MISMATCH", f"Send from {len(held)} on."))
        limit = self.cut_after.pop(0) if self.cut_after else None
        for message in request_iterator:
            assert len(message.chunk) <= 1 << 20
            held += message.chunk if limit is None else message.chunk[: max(0, limit)]
            if limit is not None and (limit := limit - len(message.chunk)) <= 0:
                abort(context, Unavailable("SERVER_STOPPING", "The server is stopping."))
        if len(held) < header.size_bytes:
            abort(context, Aborted("UPLOAD_INCOMPLETE", "Bytes are missing."))
        return self._stored(header, bytes(held), context)

    def _stored(self, header: Any, data: bytes, context: Any) -> pb.DatasetVersion:
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != header.sha256:
            del self.partial[header.parent, header.sha256]
            abort(context, DataLoss("CHECKSUM_MISMATCH", "The sha256 is another one."))
        version = pb.DatasetVersion(
            name=f"{header.parent}/versions/{sha256}",
            state=pb.DatasetVersion.STATE_VALIDATING,
            filename=header.filename,
            format=header.format,
            size_bytes=len(data),
            sha256=sha256,
            base_model=header.base_model,
        )
        self.datasets[header.parent] = pb.Dataset(name=header.parent, latest_version=version.name)
        self.files[version.name], self.versions[version.name] = data, version
        return version

    def _named(self, name: str, context: Any) -> pb.DatasetVersion:
        dataset, _, version = name.partition("/versions/")
        whole = found(self.datasets, dataset, context).latest_version if version == "latest" else name
        one: pb.DatasetVersion = found(self.versions, whole, context)
        return one

    def GetDatasetVersion(self, request: Any, context: Any) -> Any:
        version = self._named(request.name, context)
        if self.polls_until_ready:
            self.polls_until_ready -= 1
        else:
            invalid, ready = pb.DatasetVersion.STATE_INVALID, pb.DatasetVersion.STATE_READY
            version.state = ready if self.report.valid else invalid
        return version

    def ListDatasetVersions(self, request: Any, context: Any) -> Any:
        mine = [v for v in self.versions.values() if v.name.startswith(request.parent + "/")]
        versions, token = page_of(mine, request)
        return pb.ListDatasetVersionsResponse(dataset_versions=versions, next_page_token=token)

    def GetDatasetReport(self, request: Any, context: Any) -> Any:
        version = self._named(request.name.removesuffix("/report"), context)
        report = pb.DatasetReport()
        report.CopyFrom(self.report)
        report.name, report.base_model = f"{version.name}/report", request.base_model
        return report

    def DownloadDatasetVersion(self, request: Any, context: Any) -> Iterator[Any]:
        version = self._named(request.name, context)
        yield pb.DownloadDatasetVersionResponse(dataset_version=version)
        data = self.files[version.name][request.offset :]
        if self.cut_downloads:
            yield pb.DownloadDatasetVersionResponse(chunk=data[: self.cut_downloads.pop(0)])
            abort(context, Unavailable("SERVER_STOPPING", "The server is stopping."))
        yield pb.DownloadDatasetVersionResponse(chunk=data)
