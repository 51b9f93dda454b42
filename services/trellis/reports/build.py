"""Building a report: one pass over the file."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Final

from trellis.formats import (
    DigestSet,
    Example,
    FileFormat,
    FormatError,
    HeldOut,
    Kind,
    LineError,
    RawRow,
    choose_held_out,
    example_digest,
    kind_of,
    open_rows,
    read_row,
)
from trellis.reports.report import DatasetReport
from trellis.reports.tallies import Findings, KeyTally, LineTally
from trellis.reports.token_tally import TokenTally

if TYPE_CHECKING:
    from trellis.tokens import ChatTokenizer

_PROGRESS_LINES: Final = 200
_MOST_ERRORS: Final = 10_000


def build_report(
    stream: BinaryIO,
    file_format: FileFormat,
    *,
    tokenizer: ChatTokenizer | None = None,
    context_length: int | None = None,
    held_out_fraction: float = 0.1,
    seed: int = 0,
    previews: int = 3,
    max_errors: int = _MOST_ERRORS,
    progress: Callable[[int], None] | None = None,
) -> DatasetReport:
    """Read a dataset once, from the stream's present position, and report on it; `progress` is told the lines read.

    A file that cannot be read at all has a report too, with an error that says so. Memory does not grow with the file but
    for 16 bytes or so a line. Raises ValueError for a fraction below 0 or not below 1.
    """
    choose_held_out((), held_out_fraction, seed)  # refuses a wrong fraction before the file is read
    pass_ = _Pass(TokenTally(tokenizer, context_length, previews) if tokenizer else None, max_errors)
    try:
        for row in open_rows(stream, file_format):
            pass_.read(row)
            if progress and pass_.lines % _PROGRESS_LINES == 0:
                progress(pass_.lines)
    except FormatError as error:
        pass_.errors.add(LineError(1, "$", error.code, error.message, error.hint))
    if progress:
        progress(pass_.lines)
    pass_.judge_the_whole()
    held_out = choose_held_out(pass_.digests, held_out_fraction, seed)
    return _report(pass_, file_format, held_out, held_out_fraction, context_length)


class _Pass:
    """What has been seen of the file so far."""

    def __init__(self, tokens: TokenTally | None, max_errors: int) -> None:
        self.tokens = tokens
        self.errors, self.warnings = Findings(max_errors), Findings(max_errors)
        self.lines = self.valid_lines = self.empty_lines = 0
        self.kind: Kind | None = None
        self.weighty = False  # whether some line has a weight above 0
        self.digests, self.repeated = DigestSet(), array("Q")
        self.duplicates, self.ignored = LineTally(), KeyTally()

    def read(self, row: RawRow) -> None:
        self.lines += 1
        if row.empty:
            self.empty_lines += 1
            return
        reading = read_row(row, self.kind)
        self.errors.add(*reading.errors)
        self.ignored.add(reading.ignored)
        if reading.example is not None:
            self.kind = self.kind or kind_of(reading.example)
            self._take(row.line, reading.example)

    def _take(self, line: int, example: Example) -> None:
        if self.tokens is not None:
            found = self.tokens.add(line, example)
            self.errors.add(*found.errors)
            self.warnings.add(*found.warnings)
            if found.errors:
                return
        self.valid_lines += 1
        if example.weight > 0:
            self.weighty = True
            self._note_digest(line, example_digest(example))
            return
        # it takes no part in the split either: the trainer leaves it out before it splits
        message = "The line's weight is 0, so nothing is learnt from it."
        self.warnings.add(LineError(line, "$.weight", "zero_weight", message, "Drop the line if that is not meant."))

    def _note_digest(self, line: int, digest: int) -> None:
        if self.digests.add(digest):
            return
        self.repeated.append(digest)
        self.duplicates.add(line)
        message = "The same example came earlier in the file."
        self.warnings.add(
            LineError(line, "$", "duplicate_line", message, "Drop it, or give the first a higher weight.")
        )

    def judge_the_whole(self) -> None:
        if not self.valid_lines and not self.errors.counts:
            message = "The file has no examples." if self.lines else "The file is empty."
            self.errors.add(LineError(1, "$", "empty_file", message, "Write at least one example."))
        elif self.valid_lines and not self.weighty:
            message = "The weight of every line is 0, so there is nothing to learn."
            self.errors.add(LineError(1, "$", "no_trainable_tokens", message, "Give some lines a weight above 0."))

    def held_out_lines(self, held_out: HeldOut) -> int:
        return sum(map(held_out.holds, self.digests)) + sum(map(held_out.holds, self.repeated))


def _report(
    pass_: _Pass, file_format: FileFormat, held_out: HeldOut, fraction: float, context_length: int | None
) -> DatasetReport:
    tokens = pass_.tokens if pass_.tokens and pass_.tokens.encoded else None
    return DatasetReport(
        file_format=file_format,
        kind=pass_.kind,
        lines=pass_.lines,
        valid_lines=pass_.valid_lines,
        empty_lines=pass_.empty_lines,
        error_count=pass_.errors.counts.total(),
        error_counts=dict(pass_.errors.counts),
        errors=tuple(pass_.errors.kept),
        warning_counts=dict(pass_.warnings.counts),
        warnings=tuple(pass_.warnings.kept),
        duplicates=pass_.duplicates.total(),
        ignored_keys=dict(pass_.ignored.counts),
        held_out=held_out,
        held_out_fraction=fraction,
        held_out_lines=pass_.held_out_lines(held_out),
        context_length=context_length,
        tokenizer_digest=pass_.tokens.tokenizer.digest if pass_.tokens else None,
        tokens=tokens.tokens if tokens else None,
        trainable_tokens=tokens.trainable if tokens else None,
        lengths=tokens.lengths.total() if tokens else None,
        cut=tokens.cut.total() if tokens else LineTally().total(),
        previews=tuple(tokens.previews) if tokens else (),
    )
