"""Checking a dataset's file here, before any byte of it is sent."""

import os
from dataclasses import dataclass
from typing import BinaryIO

from trellis.client._files import Source
from trellis.client.types import ExampleKind, FileFormat
from trellis.errors import FailedPrecondition, Reason
from trellis.formats import (
    HEAD_BYTES,
    FileFormat as RowFormat,
    FormatError,
    Kind,
    LineError,
    detect_format,
    kind_of,
    open_rows,
    read_row,
)

MOST_ERRORS = 10_000


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """What was found without a tokenizer; the server's report says more. `errors` holds the first 10,000."""

    filename: str
    kind: ExampleKind
    line_count: int
    valid_line_count: int
    error_count: int
    errors: tuple[LineError, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong that can be seen from here."""
        return self.error_count == 0


class InvalidDataset(FailedPrecondition):
    """The file can't be trained on; `check` has every error. Nothing was sent."""

    def __init__(self, check: DatasetCheck) -> None:
        first = f" The first: {check.errors[0]}" if check.errors else ""
        errors = "1 error" if check.error_count == 1 else f"{check.error_count} errors"
        message = f"{check.filename} has {errors}; nothing was uploaded.{first}"
        super().__init__(Reason.DATASET_INVALID, message)
        self.check = check


def check_dataset(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    filename: str = "",
    format: FileFormat = FileFormat.UNSPECIFIED,  # noqa: A002 - the API's own word
) -> DatasetCheck:
    """Read a file by the rules of the platform and find every error. Raises OSError. Parquet needs pyarrow."""
    with Source.open(file, filename) as source:
        return check_source(source, format)


def check_source(source: Source, file_format: FileFormat) -> DatasetCheck:
    """As `check_dataset`, of an open file."""
    pass_ = _Pass()
    try:
        pass_.read(source, _row_format(source, file_format))
    except FormatError as error:
        pass_.add(LineError(0, "$", error.code, error.message, error.hint))
    if pass_.kind is None and not pass_.error_count:
        pass_.add(LineError(0, "$", "empty_file", "The file has no lines.", "Write at least one example."))
    kind = ExampleKind(pass_.kind.name) if pass_.kind else ExampleKind.UNSPECIFIED
    return DatasetCheck(source.filename, kind, pass_.lines, pass_.valid_lines, pass_.error_count, tuple(pass_.errors))


def _row_format(source: Source, file_format: FileFormat) -> RowFormat:
    head = source.read(0, HEAD_BYTES)
    if file_format is FileFormat.UNSPECIFIED:
        return detect_format(source.filename, head)
    if file_format is FileFormat.PARQUET:
        return RowFormat.PARQUET
    zipped = head.startswith(b"\x1f\x8b")
    return RowFormat(file_format.value.lower() + (".gz" if zipped else ""))


class _Pass:
    """What has been seen of the file so far."""

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self.lines = self.valid_lines = self.error_count = 0
        self.errors: list[LineError] = []

    def read(self, source: Source, row_format: RowFormat) -> None:
        for row in open_rows(source.stream(), row_format):
            self.lines += 1
            if row.empty:
                continue
            reading = read_row(row, self.kind)
            for error in reading.errors:
                self.add(error)
            if reading.example is not None:
                self.valid_lines += 1
                self.kind = self.kind or kind_of(reading.example)

    def add(self, error: LineError) -> None:
        self.error_count += 1
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(error)
