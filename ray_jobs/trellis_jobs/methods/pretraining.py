"""Continued pre-training: plain text, of which every token but the first is learnt.

Its loss is that of supervised tuning (`TokenMean`). A text that is longer than the context is split rather than cut:
each piece starts with the last token of the one before, so that every token is predicted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from trellis.errors import Reason
from trellis.formats import Example, TextExample
from trellis.tokens import ChatTokenizer, EncodedExample
from trellis_jobs.failure import JobFailedError
from trellis_jobs.methods.items import EncodedItem


def encode_text(example: Example, tokenizer: ChatTokenizer, context_length: int) -> list[EncodedItem]:
    """A line of text as items of at most `context_length` tokens. Raises JobFailedError for other lines."""
    if not isinstance(example, TextExample):
        message = 'Pre-training learns from lines of plain text, {"text": "…"}; these lines are something else.'
        raise JobFailedError(Reason.DATASET_INVALID, message)
    whole = tokenizer.encode_example(example)
    return [_piece(whole, start, end) for start, end in _bounds(len(whole.ids), context_length)]


def _bounds(length: int, context_length: int) -> Iterator[tuple[int, int]]:
    """Where the pieces start and end; each starts with the last token of the one before."""
    starts = [*range(0, max(length - 1, 1), context_length - 1), length - 1]
    return ((start, end + 1) for start, end in pairwise(starts))


def _piece(whole: EncodedExample, start: int, end: int) -> EncodedItem:
    ids, weights = whole.ids[start:end], whole.weights[start:end]
    if weights:
        weights[0] = 0.0
    return EncodedItem((EncodedExample(ids, weights, False, end - start),), sum(weights))
