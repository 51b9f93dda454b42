"""What an engine is asked for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from trellis.errors import FieldViolation, InvalidArgument

DEFAULT_MAX_TOKENS: Final = 256
MAX_STOPS: Final = 8
MAX_STOP_CHARACTERS: Final = 100
MAX_LOGPROBS: Final = 20
MAX_ANSWERS: Final = 8


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; the defaults sample from the model's own distribution."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all."""
    seed: int | None = None
    """The same seed and request give the same answer; random when None."""
    min_p: float = 0.0
    """Only tokens at least so likely as this share of the likeliest one."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative logits of tokens that the prompt or the answer has."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that the answer has."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of tokens once for each time that the answer has them."""

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that is out of its range."""
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= 2.0):
            yield FieldViolation("sampling.temperature", f"{self.temperature} is not from 0 to 2.")
        if not (math.isfinite(self.top_p) and 0.0 < self.top_p <= 1.0):
            yield FieldViolation("sampling.top_p", f"{self.top_p} is not above 0 and at most 1.")
        if self.top_k < 0:
            yield FieldViolation("sampling.top_k", f"{self.top_k} is negative; 0 means all tokens.")
        if not (math.isfinite(self.min_p) and 0.0 <= self.min_p <= 1.0):
            yield FieldViolation("sampling.min_p", f"{self.min_p} is not from 0 to 1.")
        if not (math.isfinite(self.repetition_penalty) and 0.0 < self.repetition_penalty <= 10.0):
            description = f"{self.repetition_penalty} is not above 0 and at most 10."
            yield FieldViolation("sampling.repetition_penalty", description)
        for name, value in (("presence", self.presence_penalty), ("frequency", self.frequency_penalty)):
            if not (math.isfinite(value) and -2.0 <= value <= 2.0):
                yield FieldViolation(f"sampling.{name}_penalty", f"{value} is not from -2 to 2.")


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What shape an answer must have."""

    json_schema: str | None = None
    """A JSON schema, as JSON text, that the answer must fit; any JSON object when None."""


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter by what it is, and where its files are."""

    digest: str
    key: str
    """Its folder in the object store."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be answered, by whom, and for whom."""

    request_id: str
    prompt_ids: tuple[int, ...]
    adapter: AdapterRef | None = None
    """None for the base alone."""
    tenant: str = ""
    """Who pays for it, in fairness and in memory: tenants share neither prefixes nor places in the queue."""
    weight: float = 1.0
    """The tenant's share beside others."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 0
    """At most so many tokens; when 0, DEFAULT_MAX_TOKENS or what the context leaves."""
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """Alternatives a token; None for no logprobs at all."""
    n: int = 1
    """Answers; the one at index i is what seed + i gives alone."""
    response_format: ResponseFormat | None = None
    """What shape the answers must have."""
    deadline: float | None = None
    """When the answer is of no use any more, on the engine's clock."""

    def check(self) -> None:
        """Raise InvalidArgument with every wrong field."""
        violations = tuple(self._violations())
        if violations:
            raise InvalidArgument.for_fields(violations)

    def _violations(self) -> Iterator[FieldViolation]:
        yield from self.sampling.violations()
        if not self.prompt_ids:
            yield FieldViolation("input", "The prompt is empty.")
        if self.max_tokens < 0:
            yield FieldViolation("max_tokens", f"{self.max_tokens} is negative.")
        if len(self.stop) > MAX_STOPS or not all(1 <= len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            description = (
                f"At most {MAX_STOPS} stop strings, each of 1 to {MAX_STOP_CHARACTERS} characters, can be given."
            )
            yield FieldViolation("stop", description)
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            yield FieldViolation("logprobs", f"{self.logprobs} is not from 0 to {MAX_LOGPROBS}.")
        if not 1 <= self.n <= MAX_ANSWERS:
            yield FieldViolation("n", f"{self.n} is not from 1 to {MAX_ANSWERS}.")
        if not (math.isfinite(self.weight) and self.weight > 0):
            yield FieldViolation("tenant_weight", f"{self.weight} is not above 0.")
