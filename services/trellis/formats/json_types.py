"""What JSON calls a value."""

from __future__ import annotations

from typing import Any


def json_type(value: Any) -> str:
    """The value's type as a phrase for a sentence: "a string", "an object"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else f"of type {type(value).__name__}"
