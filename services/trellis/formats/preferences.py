"""A line of preferences: one conversation and two answers, in the OpenAI form or in TRL's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trellis.formats.conversations import read_messages, read_parallel
from trellis.formats.errors import Problems
from trellis.formats.examples import Message, PreferenceExample
from trellis.formats.json_types import json_type
from trellis.formats.keys import NON_PREFERRED, PREFERRED
from trellis.formats.tools import read_tools

_Turns = tuple[Message, ...]
_NOTHING: Final = Message("", None)
_HINT: Final = (
    'Write {"input": {"messages": [...]}, "preferred_output": [{"role": "assistant", "content": "..."}], '
    '"non_preferred_output": [...]}.'
)


def read_preference(columns: Mapping[str, Any], weight: float, problems: Problems) -> PreferenceExample:
    """The preference of a line that has one of the keys of an answer.

    TRL's `chosen` and `rejected` may be strings, single answers, or whole conversations that differ in the last turn.
    """
    shared, tools = _prompt(columns, problems)
    before = len(problems.found)
    better = _answer(columns, PREFERRED, problems)
    worse = _answer(columns, NON_PREFERRED, problems)
    if len(problems.found) == before:
        shared = _shared_turns(shared, better, worse, problems)
    preferred, non_preferred = _last(better), _last(worse)
    if preferred == non_preferred and preferred is not _NOTHING:
        problems.add("$", "invalid_preference", "Both answers are the same.", "Drop the line: it prefers nothing.")
    read_parallel(columns.get("parallel_tool_calls"), problems)
    return PreferenceExample(shared or (), tools, preferred, non_preferred, weight)


def _prompt(columns: Mapping[str, Any], problems: Problems) -> tuple[_Turns | None, Any]:
    """The turns before the answers as `input` or `prompt` gives them, and the tools."""
    tools = read_tools(columns.get("tools"), "$.tools", problems)
    given, prompt = columns.get("input"), columns.get("prompt")
    if isinstance(given, Mapping):
        inner = read_tools(given.get("tools"), "$.input.tools", problems)
        return read_messages(given.get("messages"), "$.input.messages", problems), inner or tools
    if given is not None:
        problems.add("$.input", "data_type", f"The input is {json_type(given)}, not an object.", _HINT)
    elif isinstance(prompt, str):
        return (Message("user", prompt),), tools
    elif prompt is not None:
        return read_messages(prompt, "$.prompt", problems), tools
    return None, tools


def _answer(columns: Mapping[str, Any], keys: tuple[str, ...], problems: Problems) -> _Turns:
    key = next((key for key in keys if columns.get(key) is not None), None)
    if key is None:
        problems.add(f"$.{keys[0]}", "invalid_preference", f"There is no `{keys[0]}`.", _HINT)
        return ()
    value = columns[key]
    if isinstance(value, str):
        value = [{"role": "assistant", "content": value}]
    turns = read_messages([value] if isinstance(value, Mapping) else value, f"$.{key}", problems) or ()
    if turns and turns[-1].role not in ("assistant", ""):
        message = "An answer does not end in an assistant message."
        problems.add(f"$.{key}", "invalid_preference", message, _HINT)
    return turns


def _shared_turns(shared: _Turns | None, better: _Turns, worse: _Turns, problems: Problems) -> _Turns | None:
    """The turns before the two answers; whole conversations must agree in them."""
    if len(better) == len(worse) == 1:
        if not shared and not any(_about_the_prompt(problems)):
            problems.add("$", "missing_prompt", "There is no conversation before the two answers.", _HINT)
        return shared
    if better[:-1] != worse[:-1]:
        message = "The two answers differ in more than their last message."
        problems.add("$", "invalid_preference", message, "Give one conversation, and two single answers to it.")
        return None
    # a prompt beside whole conversations (as in UltraFeedback) only says again what they start with
    return better[:-1]


def _about_the_prompt(problems: Problems) -> list[bool]:
    return [error.path.startswith(("$.input", "$.prompt")) for error in problems.found]


def _last(turns: _Turns) -> Message:
    return turns[-1] if turns else _NOTHING
