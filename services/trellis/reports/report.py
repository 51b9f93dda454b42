"""The report itself, a value that can be written as JSON and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trellis.formats import FileFormat, HeldOut, Kind, LineError
from trellis.reports.previews import Preview, Segment


@dataclass(frozen=True, slots=True)
class Lines:
    """How many lines something is true of, and the first of their numbers."""

    count: int = 0
    first: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of the examples in tokens, before any cut; of a preference, that of the longer answer."""

    p50: int
    p90: int
    p99: int
    max: int


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What a dataset holds and what is wrong with it.

    `error_count` and the counts by code are exact; `errors` and `warnings` hold the first of each. `valid_lines` counts
    the lines that can be trained on, `empty_lines` the blank ones. Figures in tokens are None when no tokenizer was given
    or the dataset could not be encoded; `tokens` and `trainable_tokens` are what training will see, after the cut.
    """

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
        if not self.valid:
            codes = ", ".join(f"{count:,} {code}" for code, count in sorted(self.error_counts.items(), key=_most_first))
            return f"{_counted(self.error_count, 'error')} in {_counted(self.lines, 'line')}: {codes}."
        kind = f"{self.kind} line" if self.kind else "line"
        parts = [_counted(self.valid_lines, kind)]
        if self.tokens is not None and self.trainable_tokens is not None:
            parts.append(f"{_counted(self.tokens, 'token')} of which {self.trainable_tokens:,} are trained on")
        parts.append(f"{self.held_out_lines:,} held out")
        if self.cut.count:
            parts.append(f"{self.cut.count:,} to be cut at {self.context_length:,} tokens")
        if self.duplicates.count:
            parts.append(_counted(self.duplicates.count, "duplicate"))
        return ", ".join(parts) + ", no errors."

    def to_json(self) -> str:
        """The report as JSON text."""
        fields = asdict(self)
        fields["held_out"]["threshold"] = str(self.held_out.threshold)  # 64 bits are more than a JSON number keeps
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> DatasetReport:
        """The report that :meth:`to_json` wrote. Raises ValueError."""
        try:
            return cls(**_restored(json.loads(text)))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"this is not the JSON of a dataset report ({error!r})") from None


def _restored(fields: dict[str, Any]) -> dict[str, Any]:
    held_out, lengths = fields["held_out"], fields["lengths"]
    return fields | {
        "file_format": FileFormat(fields["file_format"]),
        "kind": fields["kind"] and Kind(fields["kind"]),
        "errors": tuple(LineError(**error) for error in fields["errors"]),
        "warnings": tuple(LineError(**warning) for warning in fields["warnings"]),
        "duplicates": _lines(fields["duplicates"]),
        "cut": _lines(fields["cut"]),
        "held_out": HeldOut(held_out["seed"], int(held_out["threshold"])),
        "lengths": lengths and Lengths(**lengths),
        "previews": tuple(_preview(item) for item in fields["previews"]),
    }


def _lines(fields: dict[str, Any]) -> Lines:
    return Lines(fields["count"], tuple(fields["first"]))


def _preview(fields: dict[str, Any]) -> Preview:
    return Preview(**fields | {"segments": tuple(Segment(**segment) for segment in fields["segments"])})


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
