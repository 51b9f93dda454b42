"""Binds answers to a JSON schema: which tokens may come next."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Final

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from torch import Tensor

from trellis.engine.request import ResponseFormat
from trellis.errors import InvalidArgument
from trellis.tokens import ChatTokenizer

MAX_SCHEMA_BYTES: Final = 64 * 1024
_FIELD: Final = "response_format"
_ANY_OBJECT: Final = '{"type": "object"}'
_MOST_SCHEMAS: Final = 64
_LONGEST_REASON: Final = 500
_NOT_SAID: Final = "<non-verbose/>"
_WORD_BITS: Final = 32
# One tenant's schema must neither take the replica's memory nor hold up the step that it shares with others.
_LIMITS: Final = LLParserLimits(
    max_lexer_states=16_384,  # at 1 to 2 KiB each
    step_lexer_fuel=100_000,  # some 7 ms
    step_max_items=50_000,  # some 2.5 ms
    verbose_errors=False,  # what it says goes to the caller
)


class _Masks:
    """Works out many masks of one vocabulary at once."""

    def __init__(self, vocab_size: int) -> None:
        self._words = -(-vocab_size // _WORD_BITS)
        self._executor = LLExecutor()

    def compute(self, matchers: Sequence[LLMatcher]) -> NDArray[np.uint8]:
        masks = np.zeros((len(matchers), self._words), dtype=np.int32)
        row_bytes = self._words * masks.itemsize
        places = [(matcher, row) for row, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(places, masks.ctypes.data, row_bytes, len(matchers))
        return np.unpackbits(masks.view(np.uint8), axis=-1, bitorder="little")


class Grammar:
    """What one answer may still say: it follows the tokens as they are chosen."""

    def __init__(self, matcher: LLMatcher, masks: _Masks) -> None:
        self.matcher = matcher
        self.masks = masks

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return self.matcher.is_accepting()

    @property
    def error(self) -> InvalidArgument | None:
        """Why the answer can't go on: its schema needs more work or memory than one request may take."""
        return _invalid(self.matcher.get_error()) if self.matcher.is_error() else None

    def accept(self, token_id: int) -> None:
        """Take in a token that was allowed."""
        self.matcher.consume_token(token_id)


def allowed(grammars: Sequence[Grammar], width: int) -> Tensor:
    """Which tokens each answer may go on with, (grammars, width); one that ends the answer only if it is complete.

    Grammars of one compiler, whose threads share the work. A model may have logits beyond its tokenizer's last token.
    """
    is_allowed = np.zeros((len(grammars), width), dtype=np.bool_)
    bits = grammars[0].masks.compute([grammar.matcher for grammar in grammars])
    known = min(width, bits.shape[1])
    is_allowed[:, :known] = bits[:, :known]
    return torch.from_numpy(is_allowed)


class GrammarCompiler:
    """Makes grammars for the answers of one base's tokenizer, and remembers the last few schemas."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._has_end = bool(tokenizer.eos_ids)
        ends = sorted(tokenizer.eos_ids) or None
        self._tokenizer = LLTokenizer(tokenizer.definition, eos_token=ends, slices=LLTokenizer.json_slices())
        self._masks = _Masks(self._tokenizer.vocab_size)
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def compile(self, wanted: ResponseFormat) -> Grammar:
        """A grammar at its start; for n answers, call it n times.

        A schema that is new takes from a millisecond to a second: call this in a thread before the request is submitted,
        for it lets other threads run meanwhile, and the engine's own call will then find the schema here. Raises
        InvalidArgument (INVALID_FIELD) with what is wrong with the schema.
        """
        schema = _ANY_OBJECT if wanted.json_schema is None else wanted.json_schema
        with self._lock:
            matcher = self._compiled.get(schema)
        if matcher is None:
            matcher = self._compile(schema)
        with self._lock:
            self._remember(schema, matcher)
            return Grammar(matcher.deep_copy(), self._masks)

    def _compile(self, schema: str) -> LLMatcher:
        if not self._has_end:
            raise InvalidArgument.for_field(_FIELD, "The base model has no token that ends an answer.")
        if len(schema.encode()) > MAX_SCHEMA_BYTES:
            raise InvalidArgument.for_field(_FIELD, f"The JSON schema has more than {MAX_SCHEMA_BYTES} bytes.")
        matcher = LLMatcher(self._tokenizer, _grammar(schema), log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # fills its caches, which copies share, and finds what is wrong only in use
        if matcher.is_error():
            raise _invalid(matcher.get_error())
        return matcher

    def _remember(self, schema: str, matcher: LLMatcher) -> None:
        self._compiled[schema] = matcher
        self._compiled.move_to_end(schema)
        if len(self._compiled) > _MOST_SCHEMAS:
            self._compiled.popitem(last=False)


def _grammar(schema: str) -> str:
    """The schema as the library's own grammar, whose errors come when it is used."""
    try:
        if not isinstance(json.loads(schema), dict):
            raise TypeError("it is no JSON object")
        # A schema may set options of its own; but not the one that passes over what answers can't be held to.
        return LLMatcher.grammar_from_json_schema(schema, overrides={"lenient": False})
    except (ValueError, TypeError, RecursionError) as error:
        raise _invalid(str(error)) from None


def _invalid(reason: str) -> InvalidArgument:
    said = reason.removesuffix(_NOT_SAID).strip()[:_LONGEST_REASON]
    return InvalidArgument.for_field(_FIELD, f"The JSON schema can't be followed: {said}")
