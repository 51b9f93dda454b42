"""One message of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trellis.formats.errors import Problems
from trellis.formats.examples import Message
from trellis.formats.json_types import json_type
from trellis.formats.tools import read_tool_calls

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
"""Who may speak."""

_KEYS: Final = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id"})


def read_message(value: Any, path: str, problems: Problems) -> Message:
    """The message that a JSON value spells; what is wrong with it is noted, and its role is then perhaps empty."""
    if not isinstance(value, Mapping):
        problems.add(path, "data_type", f"The message is {json_type(value)}, not an object.", _MESSAGE_HINT)
        return Message("", None)
    # null is what typed writers put where others leave a key out
    fields = {key: item for key, item in value.items() if item is not None}
    _check_keys(fields, path, problems)
    role = _role(value, path, problems)
    tool_calls = read_tool_calls(fields.get("tool_calls"), f"{path}.tool_calls", problems)
    if tool_calls and role not in ("assistant", ""):
        problems.add(f"{path}.tool_calls", "invalid_tool_call", "Only an assistant calls tools.", "Check the role.")
    return Message(
        role=role,
        content=_content(value, role, "tool_calls" in fields, path, problems),
        name=_optional_string(fields, "name", path, problems),
        weight=_weight(fields.get("weight"), f"{path}.weight", problems),
        tool_calls=tool_calls,
        tool_call_id=_tool_call_id(fields, role, path, problems),
    )


_MESSAGE_HINT: Final = 'Write {"role": ..., "content": ...}.'


def _check_keys(fields: Mapping[str, Any], path: str, problems: Problems) -> None:
    for key in sorted(fields.keys() - _KEYS):
        hint = (
            "Use `tool_calls`." if key == "function_call" else "Remove the key; known are " + ", ".join(sorted(_KEYS))
        )
        problems.add(f"{path}.{key[:80]}", "message_unrecognized_key", f"A message has no key {key[:80]!r}.", hint)


def _role(fields: Mapping[str, Any], path: str, problems: Problems) -> str:
    role = fields.get("role")
    if role in ROLES:
        return str(role)
    hint = f"Use one of {', '.join(ROLES)}."
    if role is None:
        problems.add(path, "message_missing_key", "The message has no `role`.", hint)
    elif isinstance(role, str):
        problems.add(f"{path}.role", "unrecognized_role", f"The role {role[:80]!r} is not known.", hint)
    else:
        problems.add(f"{path}.role", "data_type", f"The role is {json_type(role)}, not a string.", hint)
    return ""


def _content(fields: Mapping[str, Any], role: str, calls_tools: bool, path: str, problems: Problems) -> str | None:
    content = fields.get("content")
    if isinstance(content, list):
        content = _joined_parts(content, path, problems)
    elif content is not None and not isinstance(content, str):
        message = f"The content is {json_type(content)}, not a string."
        problems.add(f"{path}.content", "data_type", message, "Give the text as a string.")
        return None
    if content or calls_tools or (content is not None and role != "assistant"):
        return content
    if "content" not in fields:
        problems.add(path, "message_missing_key", "The message has no `content`.", "Give the text as a string.")
    elif content is not None or not isinstance(fields["content"], list):
        message = "The message has no text" + (" and calls no tool." if role == "assistant" else ".")
        problems.add(f"{path}.content", "missing_content", message, "Give the text as a string.")
    return None


def _joined_parts(parts: list[Any], path: str, problems: Problems) -> str | None:
    """Text parts in a row are one text; images and sound have no meaning for a text model."""
    texts: list[str] = []
    for index, part in enumerate(parts):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if isinstance(text, str):
            texts.append(text)
            continue
        message = "A part of the content is not text."
        hint = 'Parts must be {"type": "text", "text": "..."}.'
        problems.add(f"{path}.content[{index}]", "data_type", message, hint)
    return "".join(texts) if len(texts) == len(parts) else None


def _optional_string(fields: Mapping[str, Any], key: str, path: str, problems: Problems) -> str | None:
    value = fields.get(key)
    if value is None or isinstance(value, str):
        return value
    problems.add(f"{path}.{key}", "data_type", f"`{key}` is {json_type(value)}, not a string.", "Give a string.")
    return None


def _weight(value: Any, path: str, problems: Problems) -> int | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value in (0, 1):
        return int(value)
    problems.add(
        path,
        "invalid_weight",
        "A message's weight is neither 0 nor 1.",
        "Use 0 to leave an assistant message out of the loss; for other factors use the line's `weight`.",
    )
    return None


def _tool_call_id(fields: Mapping[str, Any], role: str, path: str, problems: Problems) -> str | None:
    found = _optional_string(fields, "tool_call_id", path, problems)
    if role == "tool" and "tool_call_id" not in fields:
        hint = "Give the id of the tool call that it answers."
        problems.add(path, "message_missing_key", "A tool message has no `tool_call_id`.", hint)
    return found
