"""Text into token ids, with the place of each token in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

from tokenizers import Tokenizer

from trellis.tokens.errors import TemplateError, TokenizerFilesError
from trellis.tokens.marks import Span

_NEVER: Final = "(?!)"
_CHUNK: Final = 1 << 18  # characters; with a context of 60,000 tokens and less, nobody ever sees a border
_WINDOW: Final = 1000
_WORD_BORDER: Final = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids, and the characters of the text that each stands for."""

    ids: list[int]
    offsets: list[Span]


class TextEncoder:
    """A tokenizer that can be told which stretches of a text are plain, whatever special tokens they spell."""

    def __init__(self, tokenizer_json: str) -> None:
        self.tokenizer = _tokenizer(tokenizer_json)
        special = [token for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        longest_first = sorted({token.content for token in special}, key=len, reverse=True)
        # a normalised special token is matched after normalisation, which may have changed the case of the text
        flags = re.IGNORECASE if any(token.normalized for token in special) else re.NOFLAG
        self.specials = re.compile("|".join(map(re.escape, longest_first)) or _NEVER, flags)
        self._special_ids = frozenset(
            number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special
        )

    @cached_property
    def _plain_tokenizer(self) -> Tokenizer:
        """The same without special tokens; a second one, as the switch of the first is shared by all threads."""
        copy = _tokenizer(self.tokenizer.to_str())
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def _newline_ids(self) -> list[int]:
        ids: list[int] = self.tokenizer.encode("\n", add_special_tokens=False).ids
        return ids

    def encode(self, text: str, plain: tuple[Span, ...] = ()) -> Tokens:
        """The tokens of a text in which special tokens are recognised, save in the `plain` spans."""
        if not plain and len(text) <= _CHUNK:
            return self._piece(text, plain=False)
        whole = Tokens([], [])
        read = 0
        for start, end in (*plain, (len(text), len(text))):
            for at, border in pairwise([read, *self._borders(text, read, start), start]):
                self._append(whole, text[at:border], at, plain=False)
            self._append(whole, text[start:end], start, plain=True)
            read = end
        return whole

    def encode_plain(self, text: str, *, continued: bool = False) -> list[int]:
        """The ids of a text in which nothing is special; `continued` when it comes in the middle of a longer text."""
        spans = tuple(match.span() for match in self.specials.finditer(text))
        if continued:
            ids = self.encode("\n" + text, tuple((start + 1, end + 1) for start, end in spans)).ids
            if self._starts_with_newline(ids):
                return ids[len(self._newline_ids) :]
        return self.encode(text, spans).ids

    def _borders(self, text: str, start: int, end: int) -> Iterator[int]:
        """Where to cut a text that would need hundreds of bytes a character: before a special token, or else a word."""
        while end - start > _CHUNK:
            reach = start + _CHUNK
            near = (reach - _WINDOW, min(reach + _WINDOW, end))
            match = self.specials.search(text, *near) or _WORD_BORDER.search(text, *near)
            start = match.start() if match else reach
            yield start

    def _append(self, whole: Tokens, piece: str, at: int, *, plain: bool) -> None:
        if not piece:
            return
        found = self._continued(piece, plain=plain) if at else self._piece(piece, plain=plain)
        if plain and not self._special_ids.isdisjoint(found.ids):
            message = f"The text {piece!r} cannot be told from the special token of that name; remove it."
            raise TemplateError("special_token_in_content", message)
        whole.ids.extend(found.ids)
        whole.offsets.extend((start + at, end + at) for start, end in found.offsets)

    def _piece(self, piece: str, *, plain: bool) -> Tokens:
        encoder = self._plain_tokenizer if plain else self.tokenizer
        found = encoder.encode(piece, add_special_tokens=False)
        return Tokens(found.ids, found.offsets)

    def _continued(self, piece: str, *, plain: bool) -> Tokens:
        """A piece from the middle of a text: encoded after a line break, which is then taken off again.

        Tokenizers of the SentencePiece family put a space before the first word of what they take for a whole text.
        """
        after = self._piece("\n" + piece, plain=plain)
        if not self._starts_with_newline(after.ids):
            return self._piece(piece, plain=plain)
        cut = len(self._newline_ids)
        return Tokens(after.ids[cut:], [(start - 1, end - 1) for start, end in after.offsets[cut:]])

    def _starts_with_newline(self, ids: list[int]) -> bool:
        return ids[: len(self._newline_ids)] == self._newline_ids


def _tokenizer(tokenizer_json: str) -> Tokenizer:
    try:
        found = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # noqa: BLE001  the library raises bare Exception for whatever it cannot read
        raise TokenizerFilesError("invalid_tokenizer", f"tokenizer.json cannot be read ({error}).") from None
    found.no_truncation()
    found.no_padding()
    return found
