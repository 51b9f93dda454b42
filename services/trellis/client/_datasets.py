"""Datasets: what tenants train on."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO

from google.protobuf.empty_pb2 import Empty

from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._check import InvalidDataset, check_source
from trellis.client._convert import enum_number, from_proto
from trellis.client._files import Sink, Source
from trellis.client._method import Method
from trellis.client._names import Names, base_model_name
from trellis.client._patience import Patience
from trellis.client._upload import FileUpload, Progress
from trellis.client.types import (
    Dataset,
    DatasetReport,
    DatasetVersion,
    DatasetVersionState,
    FileFormat,
    ReportState,
)
from trellis.errors import DataLoss, Reason, TrellisError
from trellis.v1 import dataset_pb2 as pb

_CREATE = Method("DatasetService/CreateDataset", pb.CreateDatasetRequest, pb.Dataset)
_GET = Method("DatasetService/GetDataset", pb.GetDatasetRequest, pb.Dataset)
_LIST = Method("DatasetService/ListDatasets", pb.ListDatasetsRequest, pb.ListDatasetsResponse)
_DELETE = Method("DatasetService/DeleteDataset", pb.DeleteDatasetRequest, Empty)
_GET_VERSION = Method("DatasetService/GetDatasetVersion", pb.GetDatasetVersionRequest, pb.DatasetVersion)
_LIST_VERSIONS = Method(
    "DatasetService/ListDatasetVersions", pb.ListDatasetVersionsRequest, pb.ListDatasetVersionsResponse
)
_REPORT = Method("DatasetService/GetDatasetReport", pb.GetDatasetReportRequest, pb.DatasetReport)
_DOWNLOAD = Method(
    "DatasetService/DownloadDatasetVersion", pb.DownloadDatasetVersionRequest, pb.DownloadDatasetVersionResponse
)


class AsyncDatasets:
    """What tenants train on. Versions are named `support` (the newest), `support@{sha256}`, or in full."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def create(
        self, dataset_id: str, *, display_name: str = "", tenant: str | None = None, request_id: str = ""
    ) -> Dataset:
        """Create an empty dataset; an upload creates it too. Raises AlreadyExists."""
        request = pb.CreateDatasetRequest(
            parent=self._names.parent(tenant),
            dataset_id=dataset_id,
            dataset=pb.Dataset(display_name=display_name),
            request_id=request_id or self._caller.new_request_id(),
        )
        return from_proto(Dataset, await self._caller.unary(_CREATE, request))

    async def get(self, name: str) -> Dataset:
        """Read a dataset. Raises NotFound."""
        request = pb.GetDatasetRequest(name=self._names.of("datasets", name))
        return from_proto(Dataset, await self._caller.unary(_GET, request))

    async def list(self, *, tenant: str | None = None, page_size: int = 0) -> AsyncGenerator[Dataset, None]:
        """A tenant's datasets, oldest first."""
        request = pb.ListDatasetsRequest(parent=self._names.parent(tenant), page_size=page_size)
        async for page in self._caller.pages(_LIST, request):
            for item in page.datasets:
                yield from_proto(Dataset, item)

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Delete a dataset with all its versions. Raises NotFound, FailedPrecondition while a job reads it, Aborted."""
        request = pb.DeleteDatasetRequest(name=self._names.of("datasets", name), etag=etag)
        await self._caller.delete(_DELETE, request)

    async def upload(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        dataset: str,
        base_model: str = "",
        format: FileFormat = FileFormat.UNSPECIFIED,  # noqa: A002 - the API's own word
        filename: str = "",
        create: bool = True,
        check: bool = False,
        wait: bool = True,
        timeout: float | None = 600.0,
        progress: Progress | None = None,
    ) -> DatasetVersion:
        """Upload a file, or a seekable binary stream, as a version; the same bytes give the same version.

        A connection that is lost is taken up where it broke. `create` makes the dataset if there is none. With `check`
        the file is first checked here, and InvalidDataset raised with every error before anything is sent. With `wait`
        it returns when the report is made, and then `state` is READY or INVALID; `timeout` is for this wait, in seconds.
        `progress` is told the bytes sent and the bytes in all, maybe from another thread.
        """
        with Source.open(file, filename) as source:
            if check:
                found = await self._caller.transport.in_thread(lambda: check_source(source, format))
                if not found.valid:
                    raise InvalidDataset(found)
            header = pb.UploadDatasetVersionRequest.Header(
                parent=self._names.of("datasets", dataset),
                filename=source.filename,
                size_bytes=source.size,
                sha256=await self._caller.transport.in_thread(source.sha256),
                format=pb.FileFormat.ValueType(enum_number(format, pb.FileFormat.DESCRIPTOR)),
                base_model=base_model_name(base_model),
                allow_missing=create,
            )
            sent = await FileUpload(self._caller, source, header, progress).run()
        version = from_proto(DatasetVersion, sent)
        return await self.wait(version.name, timeout=timeout) if wait else version

    async def wait(self, name: str, *, timeout: float | None = 600.0) -> DatasetVersion:
        """Wait until a version's report is made, so that it is READY or INVALID. Raises DeadlineExceeded."""
        return await self._caller.poll(
            lambda: self.get_version(name),
            lambda version: version.state is not DatasetVersionState.VALIDATING,
            timeout,
            f"The report on {name} was not made in time.",
        )

    async def get_version(self, name: str) -> DatasetVersion:
        """Read a version. Raises NotFound."""
        request = pb.GetDatasetVersionRequest(name=self._names.version(name))
        return from_proto(DatasetVersion, await self._caller.unary(_GET_VERSION, request))

    async def list_versions(self, name: str, *, page_size: int = 0) -> AsyncGenerator[DatasetVersion, None]:
        """A dataset's versions, newest first. Raises NotFound."""
        request = pb.ListDatasetVersionsRequest(parent=self._names.of("datasets", name), page_size=page_size)
        async for page in self._caller.pages(_LIST_VERSIONS, request):
            for item in page.dataset_versions:
                yield from_proto(DatasetVersion, item)

    async def report(
        self, name: str, *, base_model: str = "", wait: bool = True, timeout: float | None = 600.0
    ) -> DatasetReport:
        """The report on a version, for the base model named or that of the upload. Raises NotFound, DeadlineExceeded."""
        request = pb.GetDatasetReportRequest(
            name=f"{self._names.version(name).removesuffix('/report')}/report", base_model=base_model_name(base_model)
        )

        async def read() -> DatasetReport:
            return from_proto(DatasetReport, await self._caller.unary(_REPORT, request))

        if not wait:
            return await read()
        message = f"The report on {name} was not made in time."
        return await self._caller.poll(read, lambda report: report.state is not ReportState.PENDING, timeout, message)

    async def download(
        self, name: str, target: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> DatasetVersion:
        """Write a version's file to `target`, a file or a folder, byte for byte, whole or not at all.

        Raises NotFound, DataLoss, OSError.
        """
        version = await self.get_version(name)
        sink = Sink(_place(Path(target), version))
        try:
            await self._receive(version, sink, progress)
            if sink.sha256() != version.sha256:
                raise DataLoss(Reason.CHECKSUM_MISMATCH, f"What came of {version.name} is not what was announced.")
            sink.finish()
        finally:
            sink.discard()
        return version

    async def _receive(self, version: DatasetVersion, sink: Sink, progress: Progress | None) -> None:
        patience = Patience(self._caller)
        while True:
            request = pb.DownloadDatasetVersionRequest(name=version.name, offset=sink.received)
            try:
                async for piece in self._caller.stream(_DOWNLOAD, request):
                    sink.write(piece.chunk)
                    patience.renew()
                    if progress is not None:
                        progress(sink.received, version.size_bytes)
                return
            except TrellisError as error:
                await patience.after(error)


def _place(target: Path, version: DatasetVersion) -> Path:
    return target / (Path(version.filename).name or "data") if target.is_dir() else target


class Datasets(Blocking[AsyncDatasets]):
    """What tenants train on. Versions are named `support` (the newest), `support@{sha256}`, or in full."""

    create = blocking(AsyncDatasets.create)
    get = blocking(AsyncDatasets.get)
    list = iterating(AsyncDatasets.list)
    delete = blocking(AsyncDatasets.delete)
    upload = blocking(AsyncDatasets.upload)
    wait = blocking(AsyncDatasets.wait)
    get_version = blocking(AsyncDatasets.get_version)
    list_versions = iterating(AsyncDatasets.list_versions)
    report = blocking(AsyncDatasets.report)
    download = blocking(AsyncDatasets.download)
