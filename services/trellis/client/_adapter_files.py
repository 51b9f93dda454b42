"""An adapter's files on their way in and out."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trellis.client._caller import Caller
from trellis.client._files import Sink, Source
from trellis.client._method import Method
from trellis.errors import DataLoss, InvalidArgument, Reason
from trellis.v1 import adapter_pb2 as pb

_DOWNLOAD = Method("AdapterService/DownloadAdapter", pb.DownloadAdapterRequest, pb.DownloadAdapterResponse)
FILES = ("adapter_config.json", "adapter_model.safetensors")


def import_messages(header: pb.ImportAdapterRequest.Header, folder: Path) -> Iterator[pb.ImportAdapterRequest]:
    """The messages of an import of a folder in PEFT format."""
    yield pb.ImportAdapterRequest(header=header)
    for filename in FILES:
        with Source.open(folder / filename) as source:
            announced = pb.ImportAdapterRequest.FileHeader(
                filename=filename, size_bytes=source.size, sha256=source.sha256()
            )
            yield pb.ImportAdapterRequest(file=announced)
            for chunk in source.chunks():
                yield pb.ImportAdapterRequest(chunk=chunk)


def check_folder(folder: Path) -> None:
    """Raise InvalidArgument when a folder lacks a file of an adapter."""
    for filename in FILES:
        if not (folder / filename).is_file():
            pickled = (folder / "adapter_model.bin").exists()
            hint = " Pickle is not taken: save the adapter as safetensors." if pickled else ""
            message = f"{folder} has no {filename}.{hint}"
            raise InvalidArgument.for_field("folder", message, reason=Reason.ADAPTER_INVALID)


@dataclass(slots=True)
class _Incoming:
    """The file that is coming now."""

    announced: pb.DownloadAdapterResponse.FileHeader
    sink: Sink

    def finish(self) -> None:
        if self.sink.sha256() != self.announced.sha256:
            message = f"What came of {self.announced.filename} is not what was announced."
            raise DataLoss(Reason.CHECKSUM_MISMATCH, message)
        self.sink.finish()


async def receive(caller: Caller, name: str, target: Path) -> tuple[Path, ...]:
    """Write an adapter's files into a folder; each is checked, and none is put there before all have come."""
    target.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - as quick as the rest of what is local here
    with tempfile.TemporaryDirectory(dir=target, prefix=".incoming.") as scratch:
        names = await _receive_into(caller, name, Path(scratch))
        return tuple(Path(shutil.move(Path(scratch) / filename, target / filename)) for filename in names)


async def _receive_into(caller: Caller, name: str, folder: Path) -> list[str]:
    names: list[str] = []
    incoming: _Incoming | None = None
    try:
        async for piece in caller.stream(_DOWNLOAD, pb.DownloadAdapterRequest(name=name)):
            if piece.HasField("file"):
                if incoming:
                    incoming.finish()
                names.append(_safe(piece.file.filename))
                incoming = _Incoming(piece.file, Sink(folder / names[-1]))
            elif incoming:
                incoming.sink.write(piece.chunk)
        if incoming:
            incoming.finish()
    finally:
        if incoming:
            incoming.sink.discard()
    return names


def _safe(filename: str) -> str:
    if not filename or filename.startswith(".") or Path(filename).name != filename:
        raise DataLoss(Reason.CHECKSUM_MISMATCH, f"The server named a file {filename!r}, which no adapter has.")
    return filename
