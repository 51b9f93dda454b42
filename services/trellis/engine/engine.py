"""The engine: requests in, pieces of answers out, one token a request and step."""

from dataclasses import dataclass
from typing import Final

from trellis.engine.output import Output
from trellis.engine.request import Request
from trellis.engine.runner import Runner
from trellis.engine.sampler import NotFiniteError
from trellis.engine.scheduler import Scheduler
from trellis.engine.sequence import Sequence
from trellis.errors import InternalError, InvalidArgument, Reason, ResourceExhausted, TrellisError, error_for
from trellis.tokens import ChatTokenizer

_RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much an engine takes on at once."""

    max_running: int = 16
    """Requests that are answered at once."""
    max_waiting: int = 64
    """Requests that may wait beside them; further ones are refused with ENGINE_BUSY."""
    max_prompt_tokens: int = 2048
    """Tokens of prompts that begin in one step."""


class Engine:
    """Continuous batching over one base model; no threads, no clock: the same calls give the same answers.

    Requests for several adapters of several tenants go on token by token, side by side; none waits for another's end.
    """

    def __init__(
        self, runner: Runner, tokenizer: ChatTokenizer, context_length: int, limits: EngineLimits = EngineLimits()
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._scheduler = Scheduler(limits.max_running, limits.max_waiting, limits.max_prompt_tokens)
        self._sequences: dict[str, Sequence] = {}

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._sequences)

    @property
    def running(self) -> int:
        """Requests being answered."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._scheduler.waiting

    def submit(self, request: Request) -> None:
        """Take a request on.

        Raises InvalidArgument (INVALID_FIELD, CONTEXT_EXCEEDED), and ResourceExhausted (ENGINE_BUSY) when the queue is full.
        """
        assert request.request_id not in self._sequences, "request ids are the caller's and unique"
        request.check()
        self._check_length(request)
        if self._scheduler.is_full():
            message = f"The engine answers {self.running} requests and {self.waiting} wait; try again shortly."
            raise ResourceExhausted(Reason.ENGINE_BUSY, message, retry_after=_RETRY_SECONDS)
        sequence = Sequence(request, self._tokenizer, self._context_length)
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> None:
        """Drop a request and all that is kept for it; one that is unknown or has ended is no error."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)

    def step(self) -> list[Output]:
        """Give every request that runs its next token."""
        outputs = [self._advance(sequence) for sequence in self._scheduler.schedule()]
        for output in outputs:
            if output.is_last:
                self.cancel(output.request_id)
        return outputs

    def fail_all(self, message: str) -> list[Output]:
        """End every request with an internal error, after a step that broke; the engine is empty then."""
        outputs = [s.fail(InternalError(Reason.INTERNAL, message)) for s in self._sequences.values()]
        for output in outputs:
            self.cancel(output.request_id)
        return outputs

    def _advance(self, sequence: Sequence) -> Output:
        logits_V = self._runner.next_logits(sequence.pending_ids, sequence.key_values, sequence.request.adapter)
        try:
            return sequence.append(sequence.sampler.choose(logits_V))
        except NotFiniteError:
            return sequence.fail(_not_finite(sequence.request))

    def _check_length(self, request: Request) -> None:
        prompt = len(request.prompt_ids)
        if prompt + max(request.max_tokens, 1) <= self._context_length:
            return
        asked = f" and max_tokens {request.max_tokens}" if request.max_tokens else ""
        message = f"The prompt's {prompt} tokens{asked} do not fit the context of {self._context_length} tokens."
        metadata = {"prompt_tokens": str(prompt), "context_length": str(self._context_length)}
        raise InvalidArgument(Reason.CONTEXT_EXCEEDED, message, metadata=metadata)


def _not_finite(request: Request) -> TrellisError:
    if request.adapter is None:
        return InternalError(Reason.INTERNAL, "The base model's answer is not a number.")
    message = (
        f"The adapter {request.adapter.digest[:24]} makes the model's answer not a number; its weights are broken."
    )
    return error_for(Reason.ADAPTER_INVALID, message, metadata={"adapter_digest": request.adapter.digest})
