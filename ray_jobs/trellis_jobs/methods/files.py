"""The files of a job's dataset versions, as examples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import cast

from trellis.errors import Reason
from trellis.formats import HEAD_BYTES, Example, FileFormat, detect_format, read_examples
from trellis.objects import ObjectStore
from trellis_jobs.failure import JobFailedError


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """A dataset version's file; `file_format` is a value of FileFormat, empty where the bytes are to tell."""

    store: ObjectStore
    key: str
    sha256: str
    file_format: str

    def read(self) -> Iterator[tuple[int, Example]]:
        """The lines' numbers, from one, and their examples. Raises FormatError, and JobFailedError for other bytes."""
        with self.store.open_read(self.key) as stream:
            if self.sha256 and hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest() != self.sha256:
                message = f"The dataset's bytes in the object store are not the uploaded ones (sha256 {self.sha256})."
                raise JobFailedError(Reason.CHECKSUM_MISMATCH, message)
            stream.seek(0)
            file_format = self._format(stream.read(HEAD_BYTES))
            stream.seek(0)
            yield from read_examples(stream, file_format)

    def _format(self, head: bytes) -> FileFormat:
        if self.file_format:
            return FileFormat(self.file_format)
        return detect_format(self.key.rsplit("/", 1)[-1], head)
