"""A line of chat: a conversation, the tools it may use, and a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trellis.formats.errors import Problems
from trellis.formats.examples import ChatExample, Message
from trellis.formats.json_types import json_type
from trellis.formats.messages import read_message
from trellis.formats.tools import read_tools


def read_chat(columns: Mapping[str, Any], weight: float, problems: Problems) -> ChatExample:
    """The chat example of a line that has `messages`."""
    messages = read_messages(columns.get("messages"), "$.messages", problems)
    if messages is not None:
        _check_something_to_learn(messages, problems)
    return ChatExample(
        messages=messages or (),
        tools=read_tools(columns.get("tools"), "$.tools", problems),
        parallel_tool_calls=read_parallel(columns.get("parallel_tool_calls"), problems),
        weight=weight,
    )


def read_messages(value: Any, path: str, problems: Problems) -> tuple[Message, ...] | None:
    """The messages of a conversation; None when there is no list of them at all."""
    if not isinstance(value, list):
        code = "missing_messages_list" if value is None else "data_type"
        problems.add(path, code, f"The messages are {json_type(value)}, not a list.", _LIST_HINT)
        return None
    if not value:
        problems.add(path, "missing_messages_list", "The list of messages is empty.", _LIST_HINT)
        return None
    messages = tuple(read_message(item, f"{path}[{index}]", problems) for index, item in enumerate(value))
    _check_tool_answers(messages, path, problems)
    return messages


_LIST_HINT = 'Write "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'


def _check_something_to_learn(messages: tuple[Message, ...], problems: Problems) -> None:
    assistant = [message for message in messages if message.role == "assistant"]
    if not assistant and all(message.role for message in messages):
        problems.add(
            "$.messages",
            "example_missing_assistant_message",
            "No message has the role assistant, so there is nothing to learn.",
            "Add the answer that the model should give as an assistant message.",
        )
    if assistant and not any(message.trained for message in assistant):
        message = "Every assistant message has the weight 0, so no token would be trained on."
        problems.add("$.messages", "no_trainable_tokens", message, "Give one of them the weight 1, or drop the line.")


def _check_tool_answers(messages: tuple[Message, ...], path: str, problems: Problems) -> None:
    asked: set[str] = set()
    for index, message in enumerate(messages):
        asked.update(str(call.get("id")) for call in message.tool_calls or ())
        if message.role == "tool" and message.tool_call_id and message.tool_call_id not in asked:
            problems.add(
                f"{path}[{index}].tool_call_id",
                "unmatched_tool_call_id",
                f"No assistant message before this one calls a tool with the id {message.tool_call_id[:80]!r}.",
                "Use the id of a tool call in an earlier assistant message.",
            )


def read_parallel(value: Any, problems: Problems) -> bool | None:
    """The line's `parallel_tool_calls`, true or false or not given."""
    if value is None or isinstance(value, bool):
        return value
    hint = "Write true or false."
    problems.add("$.parallel_tool_calls", "data_type", f"`parallel_tool_calls` is {json_type(value)}.", hint)
    return None
