"""Text out of tokens that arrive one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellis.tokens.chat import ChatTokenizer


class StreamDecoder:
    """Decodes a growing sequence of tokens; the pieces of text it gives add up to the text of the whole sequence.

    A character whose bytes are spread over several tokens is given when it is complete.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, skip_special_tokens: bool = True) -> None:
        raise NotImplementedError

    def push(self, token_id: int) -> str:
        """The text that is certain now that this token has come; often empty inside a character."""
        raise NotImplementedError

    def finish(self) -> str:
        """What is still held back, at the end of the sequence."""
        raise NotImplementedError
