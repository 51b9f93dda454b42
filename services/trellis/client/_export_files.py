"""An export's files on their way here: each resumed where it stopped, checked, and put in place whole."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from trellis.client._caller import Caller
from trellis.client._method import Method
from trellis.client._patience import Patience
from trellis.client.types import Export, ExportFile
from trellis.errors import DataLoss, Reason, TrellisError
from trellis.v1 import export_pb2 as pb

Progress = Callable[[int, int], None]
_READ = Method("ExportService/ReadExportFile", pb.ReadExportFileRequest, pb.ReadExportFileResponse)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_HASH_BYTES = 1 << 20


@dataclass
class ExportDownload:
    """Brings an export's files into a folder; what is there already, whole or in part, is not sent again."""

    caller: Caller
    export: Export
    folder: Path
    progress: Progress | None = None
    done: int = 0
    """Bytes that are here."""

    async def run(self) -> tuple[Path, ...]:
        """The files' paths. Raises DataLoss, OSError."""
        targets = [(file, self.folder / safe_path(file.path)) for file in self.export.files]
        for file, target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            if await self._in_thread(partial(_is_there, file, target)):
                self._advance(file.size_bytes)
            else:
                await self._bring(file, target)
        return tuple(target for _, target in targets)

    async def _bring(self, file: ExportFile, target: Path) -> None:
        # Named for the bytes that it is to have, so that it is never continued with others.
        part = target.with_name(f".{target.name}.{file.sha256[:16]}.part")
        with part.open("ab") as stream:
            digest, received = await self._in_thread(partial(_hashed, part))
            self._advance(received)
            received = await self._receive(file, stream, digest, received)
        if received != file.size_bytes or digest.hexdigest() != file.sha256:
            self.done -= received
            part.unlink()
            raise DataLoss(Reason.CHECKSUM_MISMATCH, f"What came of {file.path} is not what {self.export.name} lists.")
        part.replace(target)

    async def _receive(self, file: ExportFile, stream: BinaryIO, digest: Any, received: int) -> int:
        patience = Patience(self.caller)
        while received < file.size_bytes:
            request = pb.ReadExportFileRequest(name=self.export.name, path=file.path, offset=received)
            before = received
            try:
                async for piece in self.caller.stream(_READ, request):
                    stream.write(piece.data)
                    digest.update(piece.data)
                    received += len(piece.data)
                    patience.renew()
                    self._advance(len(piece.data))
                    if received > file.size_bytes:
                        return received
            except TrellisError as error:
                stream.flush()
                await patience.after(error)
            else:
                if received == before:
                    return received
        return received

    def _advance(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.export.size_bytes)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await self.caller.transport.in_thread(work)


def safe_path(path: str) -> Path:
    """The path, if it stays in the folder that it is put into. Raises DataLoss."""
    parts = path.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise DataLoss(Reason.CHECKSUM_MISMATCH, f"The server named a file {path!r}, which no export has.")
    return Path(*parts)


def _is_there(file: ExportFile, target: Path) -> bool:
    if not target.is_file() or target.stat().st_size != file.size_bytes:
        return False
    return bool(_hashed(target)[0].hexdigest() == file.sha256)


def _hashed(path: Path) -> tuple[Any, int]:
    """The hash of a file's bytes, and how many there are."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(_HASH_BYTES):
            digest.update(piece)
            size += len(piece)
    return digest, size
