"""Exports."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from trellis.client.types.job import JobError


class ExportFormat(StrEnum):
    """What an export's files are."""

    UNSPECIFIED = "UNSPECIFIED"
    SAFETENSORS = "SAFETENSORS"
    GGUF = "GGUF"


class ExportState(StrEnum):
    """Where an export is in its life."""

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        """Whether the export will not change any more."""
        return self in {ExportState.SUCCEEDED, ExportState.FAILED}


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One of an export's files, by its path in the folder."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Export:
    """A whole model to take away: a base with an adapter merged into it, or the output of training all weights."""

    name: str
    display_name: str
    source: str
    format: ExportFormat
    state: ExportState
    error: JobError | None
    base_model: str
    files: tuple[ExportFile, ...]
    size_bytes: int
    create_time: datetime | None
    end_time: datetime | None
