"""From a raw row to an example, or to everything that is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from trellis.formats.conversations import read_chat
from trellis.formats.errors import InvalidLines, LineError, Problems
from trellis.formats.examples import CompletionExample, Example, Kind, TextExample, kind_of
from trellis.formats.files import FileFormat
from trellis.formats.json_types import json_type
from trellis.formats.keys import ignored_keys, kind_of_keys
from trellis.formats.preferences import read_preference
from trellis.formats.raw_row import RawRow
from trellis.formats.rows import open_rows
from trellis.formats.strict_json import read_json
from trellis.formats.tables import read_cells

_SHAPES = (
    'Write {"messages": [...]}, {"prompt": ..., "completion": ...}, {"text": ...}, '
    'or {"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}.'
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a row said: an example if there are no errors, and the keys that have no meaning for its kind."""

    example: Example | None
    errors: tuple[LineError, ...]
    ignored: frozenset[str] = frozenset()


def read_row(row: RawRow, kind: Kind | None = None) -> Reading:
    """Read a row; with `kind`, a row of another kind is the error `mixed_kinds`."""
    if row.problem is not None:
        return Reading(None, (row.problem,))
    problems = Problems(row.line)
    columns = _columns(row, problems)
    if columns is None:
        return Reading(None, tuple(problems.found))
    example = _example(columns, kind, problems)
    return Reading(None if problems.found else example, tuple(problems.found), ignored_keys(columns))


def parse_row(row: RawRow, kind: Kind | None = None) -> Example | list[LineError]:
    """The example that a row holds, or all of its errors.

    With `kind`, a row of another kind is the error `mixed_kinds`: pass the kind of the first good row of the dataset.
    """
    reading = read_row(row, kind)
    return list(reading.errors) if reading.example is None else reading.example


def read_examples(stream: BinaryIO, file_format: FileFormat) -> Iterator[tuple[int, Example]]:
    """The examples of a dataset that is known to be good, each with its line; blank lines are passed over.

    Raises InvalidLines at the first line that is not good.
    """
    kind: Kind | None = None
    for row in open_rows(stream, file_format):
        if row.empty:
            continue
        found = parse_row(row, kind)
        if isinstance(found, list):
            raise InvalidLines(tuple(found))
        kind = kind_of(found)
        yield row.line, found


def _columns(row: RawRow, problems: Problems) -> Mapping[str, Any] | None:
    if row.empty:
        problems.add("$", "empty_line", "The line is blank.", "Remove it.")
        return None
    if not isinstance(row.data, bytes):
        return read_cells(row.data, problems)
    value = read_json(row.data, "$", problems)
    if value is not None and not isinstance(value, dict):
        problems.add("$", "data_type", f"The line is {json_type(value)}, not an object.", _SHAPES)
    return value if isinstance(value, dict) else None


def _example(columns: Mapping[str, Any], expected: Kind | None, problems: Problems) -> Example | None:
    kind = kind_of_keys(columns)
    if kind is None:
        problems.add("$", "missing_messages_list", "The line has no `messages`, nor another kind of example.", _SHAPES)
        return None
    if expected is not None and kind is not expected:
        message = f"The line is a {kind} example, but the lines before it are {expected} examples."
        problems.add("$", "mixed_kinds", message, "Put each kind of example in a dataset of its own.")
    return _READERS[kind](columns, _line_weight(columns, problems), problems)


def _line_weight(columns: Mapping[str, Any], problems: Problems) -> float:
    weight = columns.get("weight")
    if weight is None:
        return 1.0
    if not isinstance(weight, (int, float)) or isinstance(weight, bool):
        problems.add("$.weight", "invalid_weight", f"The line's weight is {json_type(weight)}.", _WEIGHT_HINT)
    elif not _is_weight(weight):
        problems.add("$.weight", "invalid_weight", "The line's weight is not a finite number from 0.", _WEIGHT_HINT)
    else:
        return float(weight)
    return 1.0


_WEIGHT_HINT: Final = "Write a number such as 1 or 0.5; 0 leaves the line out of the loss."


def _is_weight(weight: float) -> bool:
    try:
        return math.isfinite(weight) and 0 <= float(weight) <= _MAX_WEIGHT
    except OverflowError:  # an integer that no float can hold
        return False


_MAX_WEIGHT: Final = 1e6
"""A loss is multiplied by the weight; beyond this it is a slip and would drown every other line."""


def _read_completion(columns: Mapping[str, Any], weight: float, problems: Problems) -> CompletionExample:
    prompt = _plain_text(columns, "prompt", "missing_prompt", problems, empty=True)
    completion = _plain_text(columns, "completion", "missing_completion", problems)
    return CompletionExample(prompt, completion, weight)


def _read_text(columns: Mapping[str, Any], weight: float, problems: Problems) -> TextExample:
    return TextExample(_plain_text(columns, "text", "missing_content", problems), weight)


def _plain_text(columns: Mapping[str, Any], key: str, code: str, problems: Problems, *, empty: bool = False) -> str:
    value = columns.get(key)
    if isinstance(value, str) and (value or empty):
        return value
    if value is None or value == "":
        problems.add(f"$.{key}", code, f"There is no `{key}`.", f"Give `{key}` as a string.")
    else:
        hint = "For conversations use `messages`." if isinstance(value, list) else f"Give `{key}` as a string."
        problems.add(f"$.{key}", "data_type", f"`{key}` is {json_type(value)}, not a string.", hint)
    return ""


_READERS: Final[dict[Kind, Callable[[Mapping[str, Any], float, Problems], Example]]] = {
    Kind.CHAT: read_chat,
    Kind.PREFERENCE: read_preference,
    Kind.COMPLETION: _read_completion,
    Kind.TEXT: _read_text,
}
