"""Exports: whole models made of a base and an adapter, to take away."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, Self

from trellis.server.domain.tuning_job import JobError


class ExportFormat(StrEnum):
    """What an export's files are."""

    SAFETENSORS = "SAFETENSORS"
    GGUF = "GGUF"


class ExportState(StrEnum):
    """Where an export is in its life."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


_WEIGHT_BYTES: Final = 2
"""Of each parameter, in the half precisions that bases have."""


def export_size(parameter_count: int) -> int:
    """How many bytes an export is taken to have until it is made."""
    return _WEIGHT_BYTES * parameter_count


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One of an export's files, by its path in the folder."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Export:
    """A whole model to take away."""

    tenant: str
    export_id: str
    uid: str
    """Never used again, unlike export_id."""
    display_name: str
    source: str
    """The name of the adapter, checkpoint or job that it is made of."""
    adapter_key: str
    """The PEFT folder in the object store; empty for the output of a job that trains all weights."""
    base_model: str
    """`baseModels/…`."""
    format: ExportFormat
    state: ExportState
    key: str
    """Where its files lie in the object store."""
    submission_id: str
    """The name of the newest run that makes it on the cluster; empty while it waits, and when there is nothing to make."""
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    error: JobError | None = None
    files: tuple[ExportFile, ...] = ()
    cleaned_up: bool = False
    """Whether the cluster was seen to run it no longer."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.tenant}/exports/{self.export_id}"

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in {ExportState.SUCCEEDED, ExportState.FAILED}

    def submitted(self, submission_id: str) -> Self:
        """The export, which a run of this name makes from now on."""
        return replace(self, state=ExportState.PENDING, submission_id=submission_id)

    def started(self, now: datetime) -> Self:
        """The export, whose run the cluster has begun."""
        return replace(self, state=ExportState.RUNNING, start_time=self.start_time or now)

    def succeeded(self, now: datetime, files: tuple[ExportFile, ...]) -> Self:
        """The export, whose files are there."""
        return replace(self, state=ExportState.SUCCEEDED, end_time=now, files=files)

    def reaped(self) -> Self:
        """The export, whose runs are gone from the cluster."""
        return replace(self, cleaned_up=True)

    def failed(self, now: datetime, error: JobError) -> Self:
        """The export, given up."""
        return replace(self, state=ExportState.FAILED, end_time=now, error=error)
