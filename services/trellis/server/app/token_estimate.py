"""How many tokens a call of a model may take, before anybody has counted them."""

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from trellis.v1.inference_pb2 import GenerateRequest

DEFAULT_MAX_TOKENS: Final = 256
"""What max_tokens is where the call says nothing."""
_CHARACTERS: Final = 4
"""Of a token, as a rule, in most languages with letters."""


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """Tokens that a call may take."""

    prompt: int
    """By the prompt's length: the true number is known when the engine has read it."""
    answers: int
    """At the most."""

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.answers


def estimate_tokens(request: GenerateRequest, context_length: int) -> TokenEstimate:
    """The most that the call's answers may have, and a guess at its prompt, neither longer than the base can take."""
    characters = len(request.prompt)
    for message in request.chat.messages:
        characters += len(message.content) + len(message.role) + sum(map(_size, message.tool_calls))
    characters += sum(map(_size, request.chat.tools))
    prompt = min(context_length, -(-characters // _CHARACTERS))
    longest = min(context_length, request.max_tokens or DEFAULT_MAX_TOKENS)
    return TokenEstimate(prompt, longest * max(1, request.n))


def _size(message: Message) -> int:
    return message.ByteSize()
