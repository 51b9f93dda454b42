"""Text out of tokens that arrive one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trellis.tokens.chat import ChatTokenizer

_INCOMPLETE: Final = "\N{REPLACEMENT CHARACTER}"
_MOST_HELD: Final = 8
"""A character has at most four bytes, so when more tokens than this are held back, they are not one character."""


class StreamDecoder:
    """Decodes a growing sequence of tokens; the pieces of text it gives add up to the text of the whole sequence.

    A character whose bytes are spread over several tokens is given when it is complete. Only the last few tokens are
    ever decoded again: those since the last complete character, and the ones before them, for a decoder may write a
    token differently at the start of a text than after another.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._window: list[int] = []
        self._complete = 0  # how many tokens of the window are complete characters
        self._sent = 0  # how many characters of the window's text have been given

    def push(self, token_id: int) -> str:
        """The text that is certain now that this token has come; often empty inside a character."""
        self._window.append(token_id)
        text = self._text(self._window)
        if not text.endswith(_INCOMPLETE):
            piece = text[self._sent :]
            self._move_on()
            return piece
        held = len(self._window) - self._complete
        certain = text.rstrip(_INCOMPLETE) if held <= _MOST_HELD else text[:-1]
        return self._send(certain)

    def finish(self) -> str:
        """What is still held back, at the end of the sequence."""
        piece = self._send(self._text(self._window))
        self._window, self._complete, self._sent = [], 0, 0
        return piece

    def _send(self, certain: str) -> str:
        piece = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        return piece

    def _move_on(self) -> None:
        self._window = self._window[self._complete :]
        self._complete = len(self._window)
        self._sent = len(self._text(self._window))

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip)
