"""DatasetService."""

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from trellis.errors import InvalidArgument
from trellis.server.app import datasets, reports, uploads
from trellis.server.app.context import Context
from trellis.server.rpc.convert.dataset import dataset, dataset_version, new_version, upload
from trellis.server.rpc.convert.report import dataset_report
from trellis.server.rpc.servicers.requests import ServicerContext, page_query, request_key
from trellis.v1 import dataset_pb2 as pb
from trellis.v1.dataset_pb2_grpc import DatasetServiceServicer


class DatasetServicer(DatasetServiceServicer):
    """See proto/trellis/v1/dataset.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def CreateDataset(self, request: pb.CreateDatasetRequest, _: ServicerContext) -> pb.Dataset:
        key = request_key(request, request.request_id)
        made = await datasets.create_dataset(
            self._context, request.parent, request.dataset_id, request.dataset.display_name, key
        )
        return dataset(made)

    async def GetDataset(self, request: pb.GetDatasetRequest, _: ServicerContext) -> pb.Dataset:
        return dataset(await datasets.get_dataset(self._context, request.name))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, _: ServicerContext) -> pb.ListDatasetsResponse:
        page = await datasets.list_datasets(self._context, request.parent, page_query(request))
        return pb.ListDatasetsResponse(datasets=map(dataset, page.items), next_page_token=page.next_page_token)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, _: ServicerContext) -> Empty:
        await datasets.delete_dataset(self._context, request.name, request.etag)
        return Empty()

    async def GetUpload(self, request: pb.GetUploadRequest, _: ServicerContext) -> pb.Upload:
        return upload(await uploads.get_upload(self._context, request.parent, request.sha256))

    async def UploadDatasetVersion(
        self, request_iterator: AsyncIterator[pb.UploadDatasetVersionRequest], _: ServicerContext
    ) -> pb.DatasetVersion:
        first = await anext(aiter(request_iterator))
        if not first.HasField("header"):
            raise InvalidArgument.for_field("header", "The first message must be the header.")
        header = new_version(first.header)
        return dataset_version(await uploads.upload_dataset_version(self._context, header, _chunks(request_iterator)))

    async def GetDatasetVersion(self, request: pb.GetDatasetVersionRequest, _: ServicerContext) -> pb.DatasetVersion:
        return dataset_version(await datasets.get_dataset_version(self._context, request.name))

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, _: ServicerContext
    ) -> pb.ListDatasetVersionsResponse:
        page = await datasets.list_dataset_versions(self._context, request.parent, page_query(request))
        return pb.ListDatasetVersionsResponse(
            dataset_versions=map(dataset_version, page.items), next_page_token=page.next_page_token
        )

    async def GetDatasetReport(self, request: pb.GetDatasetReportRequest, _: ServicerContext) -> pb.DatasetReport:
        return dataset_report(await reports.get_dataset_report(self._context, request.name, request.base_model))

    async def DownloadDatasetVersion(
        self, request: pb.DownloadDatasetVersionRequest, _: ServicerContext
    ) -> AsyncIterator[pb.DownloadDatasetVersionResponse]:
        version, pieces = await datasets.download_dataset_version(self._context, request.name, request.offset)
        yield pb.DownloadDatasetVersionResponse(dataset_version=dataset_version(version))
        async for piece in pieces:
            yield pb.DownloadDatasetVersionResponse(chunk=piece)


async def _chunks(requests: AsyncIterator[pb.UploadDatasetVersionRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if not request.HasField("chunk"):
            raise InvalidArgument.for_field("chunk", "After the header only chunks may come.")
        yield request.chunk
