"""The cells of a table (CSV, Parquet), brought to the values that a JSON line would hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trellis.formats.errors import Problems
from trellis.formats.keys import JSON_CELLS
from trellis.formats.strict_json import read_json

_ANSWERS: Final = frozenset({"chosen", "rejected"})
_BOOLEANS: Final = {"true": True, "false": False}


def read_cells(row: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """A table's row with its JSON cells read; an empty cell of those is as if the column were not there."""
    return {key: _cell(key, value, problems) for key, value in row.items()}


def _cell(key: str, value: Any, problems: Problems) -> Any:
    if not isinstance(value, str):
        return value
    if key in JSON_CELLS or (key in _ANSWERS and value.lstrip().startswith("[{")):
        return read_json(value, f"$.{key}", problems) if value.strip() else None
    if key == "weight":
        return _number(value)
    if key == "parallel_tool_calls":
        return _BOOLEANS.get(value.strip().lower(), value) if value.strip() else None
    return value


def _number(text: str) -> Any:
    """The number in a cell; text that is none is left for the check of weights to refuse."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return text
