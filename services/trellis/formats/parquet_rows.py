"""Rows of a Parquet file. Needs pyarrow, which is imported only when a Parquet file is read."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from trellis.formats.errors import FormatError, LineError
from trellis.formats.keys import KNOWN
from trellis.formats.lines import too_long
from trellis.formats.raw_row import RawRow

_BATCH_ROWS = 64


def read_parquet(stream: BinaryIO, max_bytes: int) -> Iterator[RawRow]:
    """The rows of a Parquet file as columns by name; the columns that no dataset has are not even read.

    Raises FormatError when pyarrow is missing, or when the file is damaged or has no column of a dataset.
    """
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        arrow: Any = importlib.import_module("pyarrow")
    except ImportError:
        message = "Reading Parquet needs pyarrow, which is not installed."
        raise FormatError("unsupported_format", message, "Run: pip install pyarrow") from None
    try:
        file = parquet.ParquetFile(stream)
    except (arrow.ArrowException, OSError) as error:
        raise FormatError("corrupt_file", f"The Parquet file cannot be read ({_first_line(error)}).") from None
    names: list[str] = file.schema_arrow.names
    if KNOWN.isdisjoint(names):
        raise FormatError("invalid_header", "The Parquet file has no column of a dataset.", "Name one `messages`.")
    return _rows(file, names, arrow.ArrowException, max_bytes)


def _rows(file: Any, names: list[str], arrow_error: type[Exception], max_bytes: int) -> Iterator[RawRow]:
    unread = dict.fromkeys((name for name in names if name not in KNOWN), True)
    line = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[name for name in names if name in KNOWN]):
            for row in batch.to_pylist():
                line += 1
                yield _row(line, row | unread, max_bytes)
    except (arrow_error, OSError) as error:
        message = f"The Parquet file cannot be read beyond this row ({_first_line(error)})."
        problem = LineError(line + 1, "$", "corrupt_file", message, "Write the file again and repeat the upload.")
        yield RawRow(line + 1, b"", problem)


def _row(line: int, row: dict[str, Any], max_bytes: int) -> RawRow:
    if _text_length(row) > max_bytes:
        return RawRow(line, b"", too_long(line, max_bytes))
    return RawRow(line, {key: _without_nulls(value) for key, value in row.items()})


def _text_length(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_text_length, value.values()))
    return sum(map(_text_length, value)) if isinstance(value, list) else 0


def _without_nulls(value: Any) -> Any:
    """Parquet gives every struct all the fields that any row has; what a row does not have is null, so null is nothing."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
