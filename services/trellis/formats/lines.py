"""Physical lines of a file, bounded in length, so that no file can fill the memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from trellis.formats.errors import LineError

BOM: Final = b"\xef\xbb\xbf"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_SKIP_BYTES: Final = 64 * 1024
_READ_ERRORS: Final = (EOFError, gzip.BadGzipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its line ending, or the reason why it was not read."""

    number: int
    data: bytes
    problem: LineError | None = None


def decompressed(stream: BinaryIO) -> BinaryIO:
    """A stream of what a gzip file holds; it is unpacked as it is read, so its full size never matters."""
    return io.BufferedReader(gzip.GzipFile(fileobj=stream, mode="rb"), _SKIP_BYTES)


def read_lines(stream: BinaryIO, max_bytes: int) -> Iterator[Line]:
    """The lines of a stream without a byte-order mark; a line over `max_bytes` is skipped without being held."""
    number = 0
    try:
        while data := stream.readline(max_bytes + 1):
            number += 1
            if number == 1:
                if data.startswith(_UTF16):
                    yield Line(1, b"", _utf16())
                    return
                data = data.removeprefix(BOM)
            if len(data) > max_bytes and not data.endswith(b"\n"):
                _skip_to_line_end(stream)
                yield Line(number, b"", too_long(number, max_bytes))
            else:
                yield Line(number, data)
    except _READ_ERRORS as error:
        yield Line(number + 1, b"", _corrupt(number + 1, error))


def _skip_to_line_end(stream: BinaryIO) -> None:
    while data := stream.readline(_SKIP_BYTES):
        if data.endswith(b"\n"):
            return


def too_long(line: int, max_bytes: int) -> LineError:
    """The error of a line or record that is longer than may be."""
    return LineError(
        line,
        "$",
        "line_too_long",
        f"The line is longer than {max_bytes} bytes.",
        "Split the example into several, or shorten it; no model's context is that long.",
    )


def _utf16() -> LineError:
    message = "The file starts like UTF-16 text."
    return LineError(1, "$", "invalid_encoding", message, "Save it as UTF-8.")


def _corrupt(line: int, error: Exception) -> LineError:
    message = f"The compressed file cannot be read beyond this line ({error})."
    return LineError(line, "$", "corrupt_file", message, "Compress the file again and repeat the upload.")
