"""Datasets, their versions, uploads on their way, and reports."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class VersionState(StrEnum):
    """Whether a version can be trained on."""

    VALIDATING = "VALIDATING"
    READY = "READY"
    INVALID = "INVALID"


class ReportState(StrEnum):
    """Whether a report is there."""

    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named series of versions."""

    tenant: str
    dataset_id: str
    display_name: str
    create_time: datetime
    update_time: datetime
    latest_sha256: str | None = None
    revision: int = 1


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One file of a dataset, known by its sha256; only its state and summary ever change."""

    tenant: str
    dataset_id: str
    sha256: str
    state: VersionState
    filename: str
    file_format: str
    """A value of trellis.formats.FileFormat."""
    size_bytes: int
    key: str
    """Where the file is in the object store."""
    base_model: str
    """The name of the base model that its first report counts for."""
    create_time: datetime
    kind: str = ""
    """What its lines are: chat, preference, completion or text; empty until reported."""
    line_count: int = 0
    summary: str = ""

    @property
    def name(self) -> str:
        """The version's resource name."""
        return f"tenants/{self.tenant}/datasets/{self.dataset_id}/versions/{self.sha256}"


@dataclass(frozen=True, slots=True)
class UploadPart:
    """A stored run of bytes of an upload."""

    offset: int
    size: int
    key: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way; its parts follow each other without gaps from offset 0."""

    tenant: str
    dataset_id: str
    sha256: str
    size_bytes: int
    update_time: datetime
    parts: tuple[UploadPart, ...] = ()

    @property
    def committed_bytes(self) -> int:
        """How many bytes are stored."""
        return self.parts[-1].offset + self.parts[-1].size if self.parts else 0


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a version for one base model; the finding itself is an object in the store."""

    tenant: str
    dataset_id: str
    sha256: str
    base_model: str
    state: ReportState
    create_time: datetime
    key: str = ""
    """Where the finding is, as trellis.reports wrote it; empty until DONE."""
    valid: bool = False
    trainable_token_count: int = 0
    token_count: int = 0
    """All tokens that training computes; 0 of reports that are older than this count."""
    summary: str = ""
