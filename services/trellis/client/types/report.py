"""The report on a version of a dataset."""

from dataclasses import dataclass
from enum import StrEnum

from trellis.client.types.dataset import ExampleKind, FileFormat
from trellis.formats.errors import LineError


class ReportState(StrEnum):
    """Whether a report is there."""

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class CodeCount:
    """How many errors of one code there are."""

    code: str
    count: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of lines, in tokens, as percentiles."""

    p50: int
    p90: int
    p99: int
    max: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a line as the model reads it, and whether the model is trained to write it."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """A line as the model reads it; lines count from one."""

    line: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What was found in a version, for one base model."""

    name: str
    state: ReportState
    base_model: str
    valid: bool
    summary: str
    kind: ExampleKind
    format: FileFormat
    line_count: int
    valid_line_count: int
    error_count: int
    error_counts: tuple[CodeCount, ...]
    errors: tuple[LineError, ...]
    """The first 10,000 of them, by line."""
    token_count: int
    trainable_token_count: int
    lengths: Lengths
    context_length: int
    cut_line_count: int
    cut_lines: tuple[int, ...]
    duplicate_line_count: int
    duplicate_lines: tuple[int, ...]
    held_out_line_count: int
    previews: tuple[Preview, ...]
