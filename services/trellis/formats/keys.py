"""The names that a line's columns may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trellis.formats.examples import Kind

PREFERRED: Final = ("preferred_output", "preferred_completion", "chosen")
NON_PREFERRED: Final = ("non_preferred_output", "non_preferred_completion", "rejected")

KEYS: Final[dict[Kind, frozenset[str]]] = {
    Kind.CHAT: frozenset({"messages", "tools", "parallel_tool_calls", "weight"}),
    Kind.PREFERENCE: frozenset(
        {"input", "prompt", "tools", "parallel_tool_calls", "weight", *PREFERRED, *NON_PREFERRED}
    ),
    Kind.COMPLETION: frozenset({"prompt", "completion", "weight"}),
    Kind.TEXT: frozenset({"text", "weight"}),
}
"""What is read of a line of each kind; other keys are left alone."""

JSON_CELLS: Final = frozenset({"messages", "tools", "input", *PREFERRED[:2], *NON_PREFERRED[:2]})
"""The columns of a table whose cells hold JSON text."""

KNOWN: Final = frozenset().union(*KEYS.values())
"""Every key that some kind of line knows."""


def kind_of_keys(row: Mapping[str, Any]) -> Kind | None:
    """The kind of example that these keys make, the most telling key first; a key whose value is null is not there."""
    present = {key for key, value in row.items() if value is not None}
    if present & {*PREFERRED, *NON_PREFERRED}:
        return Kind.PREFERENCE
    if "messages" in present:
        return Kind.CHAT
    if present & {"prompt", "completion"}:
        return Kind.COMPLETION
    return Kind.TEXT if "text" in present else None


def ignored_keys(row: Mapping[str, Any]) -> frozenset[str]:
    """The keys of a row that have no meaning for its kind."""
    kind = kind_of_keys(row)
    return frozenset(row) - KEYS[kind] if kind else frozenset()
