"""What an engine is asked for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from trellis.engine.adapters import LoadedAdapter
from trellis.errors import FieldViolation, InvalidArgument

DEFAULT_MAX_TOKENS: Final = 256
MAX_STOPS: Final = 8
MAX_STOP_CHARACTERS: Final = 100
MAX_LOGPROBS: Final = 20


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

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that is out of its range."""
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= 2.0):
            yield FieldViolation("sampling.temperature", f"{self.temperature} is not from 0 to 2.")
        if not (math.isfinite(self.top_p) and 0.0 < self.top_p <= 1.0):
            yield FieldViolation("sampling.top_p", f"{self.top_p} is not above 0 and at most 1.")
        if self.top_k < 0:
            yield FieldViolation("sampling.top_k", f"{self.top_k} is negative; 0 means all tokens.")


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to be made; its adapter stays loaded until the caller lets go of it."""

    request_id: str
    prompt_ids: tuple[int, ...]
    adapter: LoadedAdapter | None = None
    """None for the base alone."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 0
    """At most so many tokens; when 0, DEFAULT_MAX_TOKENS or what the context leaves."""
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """Alternatives a token; None for no logprobs at all."""

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
