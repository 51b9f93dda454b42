"""Uploading a file as a version of a dataset, in as many calls as it takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trellis.client._caller import Caller
from trellis.client._files import Source
from trellis.client._method import Method
from trellis.client._patience import Patience
from trellis.errors import NotFound, Reason, TrellisError
from trellis.v1 import dataset_pb2 as pb

_GET_UPLOAD = Method("DatasetService/GetUpload", pb.GetUploadRequest, pb.Upload)
_UPLOAD = Method("DatasetService/UploadDatasetVersion", pb.UploadDatasetVersionRequest, pb.DatasetVersion)
_RESUMABLE = {Reason.UPLOAD_INCOMPLETE, Reason.UPLOAD_OFFSET_MISMATCH}

Progress = Callable[[int, int], None]
"""Told the bytes sent and the bytes in all; may be called from another thread."""


@dataclass(frozen=True, slots=True)
class FileUpload:
    """One file on its way to the server; `header` says what is to come, but for the offset."""

    caller: Caller
    source: Source
    header: pb.UploadDatasetVersionRequest.Header
    progress: Progress | None

    async def run(self) -> pb.DatasetVersion:
        """Send what the server does not hold yet; after a cut, go on where it stopped."""
        patience, reached = Patience(self.caller), -1
        while True:
            try:
                offset = await self._committed()
                if offset > reached:
                    reached = offset
                    patience.renew()
                return await self.caller.transport.upload(_UPLOAD, self._messages(offset), None)
            except TrellisError as error:
                await patience.after(error, resumable=error.reason in _RESUMABLE)

    async def _committed(self) -> int:
        request = pb.GetUploadRequest(parent=self.header.parent, sha256=self.header.sha256)
        try:
            held = await self.caller.unary(_GET_UPLOAD, request)
        except NotFound:
            return 0
        return held.committed_bytes

    def _messages(self, offset: int) -> Iterator[pb.UploadDatasetVersionRequest]:
        header = pb.UploadDatasetVersionRequest.Header()
        header.CopyFrom(self.header)
        header.offset = offset
        yield pb.UploadDatasetVersionRequest(header=header)
        self._tell(offset)
        for chunk in self.source.chunks(offset):
            yield pb.UploadDatasetVersionRequest(chunk=chunk)
            offset += len(chunk)
            self._tell(offset)

    def _tell(self, sent: int) -> None:
        if self.progress is not None:
            self.progress(sent, self.header.size_bytes)
