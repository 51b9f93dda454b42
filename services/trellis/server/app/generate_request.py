"""What Generate asks for, before any engine sees it."""

import math
from typing import Any, Final

from trellis.server.app.fields import Violations
from trellis.v1.inference_pb2 import ChatInput, GenerateRequest, SamplingParams

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
_MAX_STOPS: Final = 8
_MAX_STOP_LENGTH: Final = 100
_MAX_LOGPROBS: Final = 20
_MAX_ANSWERS: Final = 8
_MAX_SCHEMA_BYTES: Final = 64 * 1024
_RANGES: Final[dict[Any, tuple[float, float]]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
_ABOVE_ZERO: Final[tuple[Any, ...]] = ("top_p", "repetition_penalty")


def check_generate(request: GenerateRequest) -> None:
    """Raise InvalidArgument with every field that is wrong, whatever the model."""
    violations = Violations()
    _check_input(request, violations)
    _check_sampling(request.sampling, violations)
    if request.max_tokens < 0:
        violations.add("max_tokens", "It must not be negative.")
    if len(request.stop) > _MAX_STOPS:
        violations.add("stop", f"At most {_MAX_STOPS} may be given.")
    if any(not 1 <= len(stop) <= _MAX_STOP_LENGTH for stop in request.stop):
        violations.add("stop", f"Each must have 1 to {_MAX_STOP_LENGTH} characters.")
    if request.HasField("logprobs") and not 0 <= request.logprobs <= _MAX_LOGPROBS:
        violations.add("logprobs", f"{request.logprobs} is not between 0 and {_MAX_LOGPROBS}.")
    if not 0 <= request.n <= _MAX_ANSWERS:
        violations.add("n", f"{request.n} is not between 1 and {_MAX_ANSWERS}.")
    if len(request.response_format.json_schema.encode()) > _MAX_SCHEMA_BYTES:
        violations.add("response_format.json_schema", f"It has more than {_MAX_SCHEMA_BYTES} bytes.")
    violations.raise_any()


def _check_input(request: GenerateRequest, violations: Violations) -> None:
    match request.WhichOneof("input"):
        case "chat":
            _check_chat(request.chat, violations)
        case "prompt":
            if not request.prompt:
                violations.add("prompt", "It is empty.")
        case _:
            violations.add("chat", "Either chat or prompt must be set.")


def _check_chat(chat: ChatInput, violations: Violations) -> None:
    if not chat.messages:
        violations.add("chat.messages", "There must be at least one message.")
    for number, message in enumerate(chat.messages):
        if message.role not in _ROLES:
            known = ", ".join(sorted(_ROLES))
            violations.add(f"chat.messages[{number}].role", f"{message.role[:50]!r} is none of {known}.")


def _check_sampling(sampling: SamplingParams, violations: Violations) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(sampling, name)
        if sampling.HasField(name) and not (math.isfinite(value) and least <= value <= most):
            violations.add(f"sampling.{name}", f"{value} is not between {least:g} and {most:g}.")
    for name in _ABOVE_ZERO:
        if sampling.HasField(name) and getattr(sampling, name) == 0:
            violations.add(f"sampling.{name}", "It must be above 0.")
    if sampling.HasField("top_k") and sampling.top_k < 0:
        violations.add("sampling.top_k", "It must not be negative.")
