"""Datasets and their versions."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class FileFormat(StrEnum):
    """How a dataset's file is laid out; UNSPECIFIED is told from its name and first bytes."""

    UNSPECIFIED = "UNSPECIFIED"
    JSONL = "JSONL"
    CSV = "CSV"
    PARQUET = "PARQUET"


class ExampleKind(StrEnum):
    """What the lines of a dataset are; UNSPECIFIED where the file has no valid line."""

    UNSPECIFIED = "UNSPECIFIED"
    CHAT = "CHAT"
    PREFERENCE = "PREFERENCE"
    COMPLETION = "COMPLETION"
    TEXT = "TEXT"


class DatasetVersionState(StrEnum):
    """Whether a version can be trained on."""

    UNSPECIFIED = "UNSPECIFIED"
    VALIDATING = "VALIDATING"
    READY = "READY"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named series of versions."""

    name: str
    display_name: str
    latest_version: str
    create_time: datetime | None
    update_time: datetime | None
    etag: str


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One file of a dataset; never changed, and named by its sha256."""

    name: str
    state: DatasetVersionState
    filename: str
    format: FileFormat
    size_bytes: int
    sha256: str
    kind: ExampleKind
    line_count: int
    summary: str
    create_time: datetime | None
    base_model: str


@dataclass(frozen=True, slots=True)
class Upload:
    """What the server holds of a file on its way."""

    parent: str
    sha256: str
    size_bytes: int
    committed_bytes: int
    dataset_version: str
