"""Which format a file has, told from its first bytes and its name."""

from __future__ import annotations

from enum import StrEnum

from trellis.formats.errors import FormatError

HEAD_BYTES = 4096
"""How many of a file's first bytes :func:`detect_format` wants to see."""

_GZIP, _PARQUET, _ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
_BOM = b"\xef\xbb\xbf"


class FileFormat(StrEnum):
    """A file format that datasets may come in."""

    JSONL = "jsonl"
    JSONL_GZ = "jsonl.gz"
    CSV = "csv"
    CSV_GZ = "csv.gz"
    PARQUET = "parquet"


_SUFFIXES = {
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".json": FileFormat.JSONL,
    ".csv": FileFormat.CSV,
    ".parquet": FileFormat.PARQUET,
}


def detect_format(filename: str, head: bytes) -> FileFormat:
    """The format of a file with this name and these first bytes.

    The bytes are believed before the name. Raises FormatError (`unsupported_format`) when neither tells, or when they
    show something that cannot be a dataset.
    """
    name = filename.lower()
    if head.startswith(_GZIP):
        inner = _by_suffix(name.removesuffix(".gz").removesuffix(".gzip"))
        return FileFormat.CSV_GZ if inner is FileFormat.CSV else FileFormat.JSONL_GZ
    if head.startswith(_PARQUET):
        return FileFormat.PARQUET
    _refuse_foreign(name, head)
    found = _by_suffix(name)
    if found is not None:
        return found
    if head.removeprefix(_BOM).lstrip().startswith(b"{"):
        return FileFormat.JSONL
    raise FormatError(
        "unsupported_format",
        f"{_shown(filename)} is of no known format.",
        "Name it .jsonl, .jsonl.gz, .csv or .parquet, according to what it holds.",
    )


def _by_suffix(name: str) -> FileFormat | None:
    return next((found for suffix, found in _SUFFIXES.items() if name.endswith(suffix)), None)


def _refuse_foreign(name: str, head: bytes) -> None:
    if head.startswith(_ZIP):
        raise FormatError("unsupported_format", "The file is a ZIP archive.", "Unpack it and upload the file inside.")
    if head and name.endswith(".parquet"):
        raise FormatError("unsupported_format", "The file is named .parquet but does not hold Parquet.")
    if head and name.endswith((".gz", ".gzip")):
        raise FormatError("unsupported_format", "The file is named .gz but is not compressed with gzip.")
    if head.removeprefix(_BOM).lstrip().startswith(b"[") and not name.endswith(".csv"):
        raise FormatError(
            "unsupported_format",
            "The file holds one JSON array, not JSON Lines.",
            "Write each element on a line of its own, without the brackets and the commas between them.",
        )


def _shown(filename: str) -> str:
    return repr(filename[-100:]) if filename else "The file"
