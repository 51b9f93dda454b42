"""The first examples as the model will see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

from trellis.tokens import EncodedExample, StreamDecoder

if TYPE_CHECKING:
    from trellis.tokens import ChatTokenizer

_MOST_TOKENS: Final = 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a preview's text, and whether its tokens are trained on."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """One example as the model will see it, special tokens included.

    `label` tells the two answers of a preference apart: `preferred` and `non_preferred`; otherwise it is empty. A preview
    that is not `complete` shows the first tokens only.
    """

    line: int
    label: str
    complete: bool
    segments: tuple[Segment, ...]


def preview(tokenizer: ChatTokenizer, line: int, label: str, encoded: EncodedExample) -> Preview:
    """The preview of an encoded example."""
    pieces = list(_pieces(tokenizer, encoded))
    segments = tuple(
        Segment("".join(text for text, _ in group), trained)
        for trained, group in groupby(pieces, lambda piece: piece[1])
    )
    return Preview(line, label, not encoded.cut and len(encoded.ids) <= _MOST_TOKENS, segments)


def _pieces(tokenizer: ChatTokenizer, encoded: EncodedExample) -> Iterator[tuple[str, bool]]:
    """The text that each token completes, so that a character of several tokens is never torn."""
    decoder = StreamDecoder(tokenizer, skip_special_tokens=False)
    trained = False
    for number, weight in zip(encoded.ids[:_MOST_TOKENS], encoded.weights, strict=False):
        trained = weight > 0
        if text := decoder.push(number):
            yield text, trained
    if text := decoder.finish():
        yield text, trained
