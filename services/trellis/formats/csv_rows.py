"""Rows of a CSV file (RFC 4180, comma, UTF-8, header in the first record)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from trellis.formats.errors import FormatError, LineError
from trellis.formats.keys import KNOWN
from trellis.formats.lines import Line, read_lines, too_long
from trellis.formats.raw_row import RawRow


def read_csv(stream: BinaryIO, max_bytes: int) -> Iterator[RawRow]:
    """The records of a CSV file as columns by name; a record over `max_bytes` is skipped. Raises FormatError."""
    # the csv module's own limit is one for the whole process, and below what a long example needs
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    header: list[str] | None = None
    for record in _records(read_lines(stream, max_bytes), max_bytes):
        if record.problem is not None:
            yield RawRow(record.number, b"", record.problem)
        elif not record.data.strip():
            yield RawRow(record.number, b"")
        elif header is None:
            header = _header(record)
        else:
            yield _row(record, header)


def _records(lines: Iterator[Line], max_bytes: int) -> Iterator[Line]:
    """Lines joined to records: one ends where its quotes, doubled ones included, are even in number."""
    start, held = 0, bytearray()
    for line in lines:
        if line.problem is None and not held and line.data.count(b'"') % 2 == 0:
            yield line
            continue
        start = start if held else line.number
        held += line.data
        if line.problem is not None or len(held) > max_bytes:
            yield Line(start, b"", line.problem or too_long(start, max_bytes))
            held.clear()
        elif line.data.count(b'"') % 2 == 1 and len(held) > len(line.data):
            yield Line(start, bytes(held))
            held.clear()
    if held:
        yield Line(start, bytes(held))


def _cells(record: Line) -> list[str]:
    text = record.data.decode("utf-8")
    return next(csv.reader(io.StringIO(text, newline=""), strict=True))


def _header(record: Line) -> list[str]:
    try:
        names = [name.strip() for name in _cells(record)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError("invalid_header", f"The CSV header cannot be read ({error}).", _HEADER_HINT) from None
    if len(set(names)) < len(names):
        raise FormatError("invalid_header", "The CSV header names a column twice.", _HEADER_HINT)
    if KNOWN.isdisjoint(names):
        raise FormatError("invalid_header", "The CSV header names no column of a dataset.", _HEADER_HINT)
    return names


_HEADER_HINT = "Name the columns in the first line, such as `prompt,completion` or `messages`."


def _row(record: Line, header: list[str]) -> RawRow:
    try:
        cells = _cells(record)
    except UnicodeDecodeError as error:
        message = f"The record is not UTF-8 at its byte {error.start + 1}."
        return _bad(record.number, "invalid_encoding", message, "Save the file as UTF-8.")
    except csv.Error as error:
        message = f"The record is not CSV ({error})."
        return _bad(record.number, "invalid_csv", message, 'Quote cells that hold commas, and double the quotes: "".')
    if len(cells) != len(header):
        message = f"The record has {len(cells)} cell(s), but the header has {len(header)}."
        return _bad(record.number, "invalid_csv", message, "Quote cells that hold commas or line breaks.")
    columns: dict[str, Any] = dict(zip(header, cells, strict=True))
    return RawRow(record.number, columns)


def _bad(line: int, code: str, message: str, hint: str) -> RawRow:
    return RawRow(line, b"", LineError(line, "$", code, message, hint))
