"""The report on a dataset: everything a person wants to know before it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from trellis.formats import FileFormat, HeldOut, Kind, LineError
from trellis.tokens import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Lines:
    """How many lines something is true of, and the first of their numbers."""

    count: int = 0
    first: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of the examples in tokens, before any cut."""

    p50: int
    p90: int
    p99: int
    max: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a preview's text, and whether its tokens are trained on."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """One example as the model will see it."""

    line: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What a dataset holds and what is wrong with it; figures in tokens are None when no tokenizer was given."""

    file_format: FileFormat
    kind: Kind | None
    lines: int
    valid_lines: int
    empty_lines: int
    error_count: int
    error_counts: Mapping[str, int]
    errors: tuple[LineError, ...]
    warning_counts: Mapping[str, int]
    warnings: tuple[LineError, ...]
    duplicates: Lines
    ignored_keys: Mapping[str, int]
    held_out: HeldOut
    held_out_fraction: float
    held_out_lines: int
    context_length: int | None
    tokenizer_digest: str | None
    tokens: int | None
    trainable_tokens: int | None
    lengths: Lengths | None
    cut: Lines
    previews: tuple[Preview, ...]

    @property
    def valid(self) -> bool:
        """Whether the dataset can be trained on."""
        return self.error_count == 0

    @property
    def summary(self) -> str:
        """The report in one sentence."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The report as JSON text."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, text: str) -> DatasetReport:
        """The report that :meth:`to_json` wrote. Raises ValueError."""
        raise NotImplementedError


def build_report(
    stream: BinaryIO,
    file_format: FileFormat,
    *,
    tokenizer: ChatTokenizer | None = None,
    context_length: int | None = None,
    held_out_fraction: float = 0.1,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> DatasetReport:
    """Read a dataset once, from the stream's present position, and report on it; `progress` is told the lines read.

    Memory does not grow with the file but for 16 bytes or so a line. Raises FormatError for a file that cannot be read.
    """
    raise NotImplementedError
