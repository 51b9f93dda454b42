"""Definitions of tools, and calls of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trellis.formats.errors import Problems
from trellis.formats.json_types import json_type

_TOOL_HINT = 'Write {"type": "function", "function": {"name": "...", "parameters": {...}}}.'
_CALL_HINT = 'Write {"id": "...", "type": "function", "function": {"name": "...", "arguments": "{...}"}}.'


def read_tools(value: Any, path: str, problems: Problems) -> tuple[Mapping[str, Any], ...] | None:
    """The tools that a line defines; none and an empty list are the same."""
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        problems.add(path, "data_type", f"The tools are {json_type(value)}, not a list.", _TOOL_HINT)
        return None
    for index, tool in enumerate(value):
        _check_tool(tool, f"{path}[{index}]", problems)
    return tuple(value)


def _check_tool(tool: Any, path: str, problems: Problems) -> None:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        problems.add(path, "invalid_tools", "A tool is not an object with a `function`.", _TOOL_HINT)
        return
    if not _is_name(function.get("name")):
        problems.add(path, "invalid_tools", "A tool has no name.", _TOOL_HINT)
    if not isinstance(function.get("parameters") or {}, Mapping):
        problems.add(path, "invalid_tools", "A tool's `parameters` are not a JSON schema.", _TOOL_HINT)


def read_tool_calls(value: Any, path: str, problems: Problems) -> tuple[Mapping[str, Any], ...] | None:
    """The tool calls of an assistant message; none and an empty list are the same."""
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        problems.add(path, "data_type", f"The tool calls are {json_type(value)}, not a list.", _CALL_HINT)
        return None
    good = [_check_call(call, f"{path}[{index}]", problems) for index, call in enumerate(value)]
    return tuple(value) if all(good) else None


def _check_call(call: Any, path: str, problems: Problems) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        problems.add(path, "invalid_tool_call", "A tool call is not an object with a `function`.", _CALL_HINT)
        return False
    before = len(problems.found)
    if not _is_name(call.get("id")):
        problems.add(path, "invalid_tool_call", "A tool call has no `id`.", _CALL_HINT)
    if not _is_name(function.get("name")):
        problems.add(f"{path}.function", "invalid_tool_call", "A tool call names no function.", _CALL_HINT)
    if not isinstance(function.get("arguments"), (str, Mapping)):
        message = "A tool call's `arguments` are neither JSON text nor an object."
        problems.add(f"{path}.function", "invalid_tool_call", message, _CALL_HINT)
    return len(problems.found) == before


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""
