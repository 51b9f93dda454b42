"""Reading a file row by row, in constant memory, without yet judging what the rows say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from trellis.formats.csv_rows import read_csv
from trellis.formats.files import FileFormat
from trellis.formats.lines import decompressed, read_lines
from trellis.formats.parquet_rows import read_parquet
from trellis.formats.raw_row import MAX_LINE_BYTES, RawRow


def open_rows(stream: BinaryIO, file_format: FileFormat) -> Iterator[RawRow]:
    """The rows of a file, one at a time; what cannot be read becomes a row with a `problem`.

    The stream must be seekable for Parquet. Raises FormatError when Parquet is asked for and pyarrow is not installed,
    or when the file has no header that can be read.
    """
    match file_format:
        case FileFormat.JSONL:
            return _read_jsonl(stream)
        case FileFormat.JSONL_GZ:
            return _read_jsonl(decompressed(stream))
        case FileFormat.CSV:
            return read_csv(stream, MAX_LINE_BYTES)
        case FileFormat.CSV_GZ:
            return read_csv(decompressed(stream), MAX_LINE_BYTES)
        case FileFormat.PARQUET:
            return read_parquet(stream, MAX_LINE_BYTES)


def _read_jsonl(stream: BinaryIO) -> Iterator[RawRow]:
    for line in read_lines(stream, MAX_LINE_BYTES):
        yield RawRow(line.number, line.data.strip(), line.problem)
