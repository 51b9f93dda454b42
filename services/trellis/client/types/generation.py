"""What models are asked and what they answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class FinishReason(StrEnum):
    """Why an answer ended; UNSPECIFIED while it has not."""

    UNSPECIFIED = "UNSPECIFIED"
    STOP = "STOP"
    LENGTH = "LENGTH"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; `role` is system, developer, user, assistant or tool."""

    role: str
    content: str = ""
    name: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have stood there; its log probability is natural."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, how likely it was, and the likeliest at its place."""

    token_id: int
    text: str
    logprob: float
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call took, in tokens, all its answers together; some of the prompt's may be remembered from before."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of the answer at `index`; its last one has the finish reason, and the last of all the usage."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    usage: Usage | None
    adapter_digest: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer of the `n` that were asked for."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason = FinishReason.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model answered: `text` and the like are the first answer's; `adapter_digest` is empty for a base model."""

    answers: tuple[Answer, ...]
    usage: Usage
    adapter_digest: str

    @property
    def text(self) -> str:
        """The first answer's text."""
        return self.answers[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first answer's tokens."""
        return self.answers[0].token_ids

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """One for each of the first answer's tokens, when asked for."""
        return self.answers[0].logprobs

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first answer ended."""
        return self.answers[0].finish_reason
