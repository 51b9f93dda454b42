"""The four kinds of example that a dataset may hold, after its lines have been read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What the lines of a dataset are; all lines of one dataset are of one kind."""

    CHAT = "chat"
    PREFERENCE = "preference"
    COMPLETION = "completion"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `weight` 0 keeps an assistant's turn out of the loss (None means 1)."""

    role: str
    content: str | None
    name: str | None = None
    weight: int | None = None
    tool_calls: tuple[Mapping[str, Any], ...] | None = None
    tool_call_id: str | None = None

    @property
    def trained(self) -> bool:
        """Whether this turn's tokens count in the loss."""
        return self.role == "assistant" and self.weight != 0


@dataclass(frozen=True, slots=True)
class ChatExample:
    """A conversation; its assistant turns are learnt."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    parallel_tool_calls: bool | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """A conversation and two assistant answers to it, the better one and the worse one."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None
    preferred: Message
    non_preferred: Message
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class CompletionExample:
    """A prompt and the text that should follow it, without a chat template; only the completion is learnt."""

    prompt: str
    completion: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TextExample:
    """Plain text, all of which is learnt."""

    text: str
    weight: float = 1.0


Example = ChatExample | PreferenceExample | CompletionExample | TextExample

_KINDS: dict[type[Example], Kind] = {
    ChatExample: Kind.CHAT,
    PreferenceExample: Kind.PREFERENCE,
    CompletionExample: Kind.COMPLETION,
    TextExample: Kind.TEXT,
}


def kind_of(example: Example) -> Kind:
    """The kind of an example."""
    return _KINDS[type(example)]
