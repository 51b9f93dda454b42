"""What an engine answers, a piece at a time."""

from dataclasses import dataclass, field
from enum import StrEnum

from trellis.errors import TrellisError


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "STOP"
    """The model ended its turn, or a stop string came."""
    LENGTH = "LENGTH"
    """max_tokens, or the end of the context, was reached."""
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have stood there, with its natural log probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token and its natural log probability under the model, before temperature and the like."""

    token_id: int
    text: str
    logprob: float
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of one answer to a request; with the last piece of each answer comes a finish reason."""

    request_id: str
    index: int = 0
    """Which of the request's answers."""
    text: str = ""
    """The next text that is certain; may be empty."""
    token_ids: tuple[int, ...] = ()
    """The tokens that came since the last piece, the one that ends the turn included."""
    logprobs: tuple[TokenChance, ...] = ()
    """One for each of token_ids, when asked for."""
    finish_reason: FinishReason | None = None
    error: TrellisError | None = None
    """Ends the request, whatever became of its other answers."""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    """Of the prompt's, those that were remembered from an earlier request."""
    completion_tokens: int = 0
    """So far, of all the request's answers together."""
    queued_seconds: float | None = field(default=None, compare=False)
    """How long the request waited before its first answer began; None while it waits."""
    is_last: bool = False
    """Whether nothing comes after it for this request."""
