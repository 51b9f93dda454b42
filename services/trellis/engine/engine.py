"""The engine: requests in, pieces of answers out."""

from collections.abc import Callable
from dataclasses import replace

from trellis.engine.answers import Answers
from trellis.engine.batch import Piece
from trellis.engine.blocks import BlockPool
from trellis.engine.grammar import GrammarCompiler
from trellis.engine.limits import EngineLimits
from trellis.engine.output import Output
from trellis.engine.request import DEFAULT_MAX_TOKENS, Request
from trellis.engine.runner import Runner
from trellis.engine.sampler import Choice, NotFiniteError, Sampler, choose
from trellis.engine.scheduler import Scheduler
from trellis.engine.sequence import Sequence
from trellis.engine.throughput import Throughput
from trellis.engine.tiers import AdapterTiers
from trellis.engine.usage import EngineUsage, StepSize
from trellis.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    Reason,
    ResourceExhausted,
    TrellisError,
    error_for,
)
from trellis.tokens import ChatTokenizer


class Engine:
    """Continuous batching over one base model and many adapters; it has no threads and no clock of its own.

    A request for an adapter that is not in the bank waits until the tiers have brought it there; requests that need
    none, or another one, go on meanwhile.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: ChatTokenizer,
        context_length: int,
        tiers: AdapterTiers,
        limits: EngineLimits,
        clock: Callable[[], float],
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._tiers = tiers
        self._clock = clock
        self._grammars = grammars
        self._blocks = BlockPool(runner.cache.blocks, runner.cache.block_tokens)
        self._context_length = min(
            context_length, runner.context_length, self._blocks.count * self._blocks.block_tokens
        )
        self._scheduler: Scheduler[Sequence] = Scheduler(limits, self._blocks, tiers)
        self._throughput = Throughput()
        self.last_step = StepSize(0, 0, 0)
        """Of those that computed something; for metrics."""
        self._answers: dict[str, Answers] = {}
        self._is_stuck = False

    @property
    def has_work(self) -> bool:
        """Whether there are requests."""
        return bool(self._answers)

    @property
    def can_step(self) -> bool:
        """Whether a step would do anything: not when all requests wait for adapters that are being loaded.

        The end of a load (`notify`) changes that, and so does a deadline (`seconds_left`).
        """
        if self._tiers.has_news:
            return True
        return self.has_work and (not self._is_stuck or self.seconds_left == 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Until the next deadline of a request; None when none has one."""
        deadlines = [a.request.deadline for a in self._answers.values() if a.request.deadline is not None]
        return max(0.0, min(deadlines) - self._clock()) if deadlines else None

    @property
    def running(self) -> int:
        """Answers that are being made, those that are parked among them."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """Answers that wait."""
        return self._scheduler.waiting

    @property
    def usage(self) -> EngineUsage:
        """What the engine holds and does."""
        bank, tiers, blocks = self._runner.bank, self._tiers, self._blocks
        return EngineUsage(
            running=self.running,
            waiting=self.waiting,
            kv_blocks=blocks.count,
            kv_blocks_used=blocks.used,
            kv_blocks_cached=blocks.cached,
            kv_block_tokens=blocks.block_tokens,
            bank_rows=bank.rows,
            bank_rows_used=bank.rows_used,
            pins=tiers.pins,
            loading=tiers.loading,
            resident_digests=tiers.resident_digests,
            host_digests=tiers.host_digests,
            tokens_per_second=self._throughput.tokens_per_second or 0.0,
            parked=self._scheduler.parked,
        )

    def prepare(self, request: Request) -> None:
        """Do what may take a second before a request is submitted; it may be called in any thread.

        Raises InvalidArgument (INVALID_FIELD) for a format that can't be followed.
        """
        if request.response_format is not None and self._grammars is not None:
            self._grammars.compile(request.response_format)

    def submit(self, request: Request) -> None:
        """Take a request on.

        Raises InvalidArgument (INVALID_FIELD, CONTEXT_EXCEEDED), and ResourceExhausted (ENGINE_BUSY) when there is no room
        for it to wait.
        """
        assert request.request_id not in self._answers, "request ids are the caller's and unique"
        request.check()
        self._check_length(request)
        self._check_room(request)
        answers = Answers(request, self._sequences(request), self._clock())
        self._answers[request.request_id] = answers
        for sequence in answers.sequences:
            self._scheduler.add(sequence)
        self._is_stuck = False

    def notify(self, callback: Callable[[], None]) -> None:
        """Have this called, in any thread, when a load has ended and `can_step` may have become true."""
        self._tiers.on_load_end = callback

    def cancel(self, request_id: str) -> None:
        """Drop a request and all that is kept for it; one that is unknown or has ended is no error."""
        answers = self._answers.pop(request_id, None)
        if answers is None:
            return
        for sequence in answers.sequences:
            if not sequence.is_finished:
                self._scheduler.remove(sequence)
        self._is_stuck = False

    def step(self) -> list[Output]:
        """Bring adapters closer, let requests begin, and give each that runs its next token or a chunk of its prompt."""
        start = self._clock()
        outputs = self._failed_loads() + self._expired(start)
        progress = self._scheduler.admit()
        plan = self._scheduler.plan()
        if plan:
            for sequence, _ in plan:
                if sequence.began is None:
                    sequence.began = start
            outputs += self._run(plan)
            self.last_step = StepSize(self.last_step.number + 1, len(plan), sum(tokens for _, tokens in plan))
            self._throughput.add(self.last_step.tokens, self._clock() - start)
        self._is_stuck = not (outputs or progress or plan)
        assert not self._is_stuck or self._tiers.loading or not self.has_work, "requests wait for nothing"
        return outputs

    def fail_all(self, message: str) -> list[Output]:
        """End every request with an internal error, after a step that broke; the engine is empty then."""
        return [self._fail(a, InternalError(Reason.INTERNAL, message)) for a in list(self._answers.values())]

    def _run(self, plan: list[tuple[Sequence, int]]) -> list[Output]:
        logits_NV = self._runner.step([_piece(sequence, tokens) for sequence, tokens in plan])
        for sequence, tokens in plan:
            self._scheduler.advance(sequence, tokens)
        chosen = [sequence for sequence, _ in plan if sequence.pending == 0]
        choices = choose(logits_NV, [sequence.sampler for sequence in chosen]) if chosen else []
        outputs: list[Output] = []
        for sequence, choice in zip(chosen, choices, strict=True):
            answers = self._answers.get(sequence.request.request_id)
            if answers is not None:  # another of the request's answers may just have failed
                outputs.append(self._take(answers, sequence, choice))
        return outputs

    def _take(self, answers: Answers, sequence: Sequence, choice: Choice | NotFiniteError | InvalidArgument) -> Output:
        if isinstance(choice, InvalidArgument):
            return self._fail(answers, choice)
        if isinstance(choice, NotFiniteError):
            return self._fail(answers, _not_finite(sequence.request))
        output = answers.append(sequence, choice)
        self._scheduler.charge_answer(sequence)
        if sequence.is_finished:
            self._scheduler.remove(sequence)
        if output.is_last:
            del self._answers[output.request_id]
        return output

    def _fail(self, answers: Answers, error: TrellisError) -> Output:
        output = answers.fail(error)
        self.cancel(output.request_id)
        return output

    def _failed_loads(self) -> list[Output]:
        errors = {failed.digest: failed.error for failed in self._tiers.poll()}
        return [
            self._fail(answers, errors[answers.request.adapter.digest])
            for answers in list(self._answers.values())
            if answers.request.adapter is not None and answers.request.adapter.digest in errors
        ]

    def _expired(self, now: float) -> list[Output]:
        return [
            self._fail(answers, DeadlineExceeded(Reason.DEADLINE_EXCEEDED, "The answer was not ready in time."))
            for answers in list(self._answers.values())
            if answers.request.deadline is not None and answers.request.deadline <= now
        ]

    def _sequences(self, request: Request) -> tuple[Sequence, ...]:
        left = self._context_length - len(request.prompt_ids)
        max_tokens = min(request.max_tokens or DEFAULT_MAX_TOKENS, left)
        first = Sequence(request, 0, self._sampler(request, 0), self._tokenizer, max_tokens)
        others = range(1, request.n)
        return first, *(
            Sequence(request, i, self._sampler(request, i), self._tokenizer, max_tokens, first) for i in others
        )

    def _sampler(self, request: Request, index: int) -> Sampler:
        sampling = request.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + index)
        grammar = None
        if request.response_format is not None:
            if self._grammars is None:
                raise InvalidArgument.for_field("response_format", "This engine can't bind answers to a format.")
            grammar = self._grammars.compile(request.response_format)
        return Sampler(sampling, request.logprobs, request.prompt_ids, grammar)

    def _check_room(self, request: Request) -> None:
        if self._scheduler.has_room(request.tenant, request.n):
            return
        message = f"The engine makes {self.running} answers and {self.waiting} wait; try again shortly."
        retry = self._throughput.retry_seconds(self._scheduler.tokens_left)
        raise ResourceExhausted(Reason.ENGINE_BUSY, message, retry_after=retry)

    def _check_length(self, request: Request) -> None:
        prompt = len(request.prompt_ids)
        if prompt + max(request.max_tokens, 1) <= self._context_length:
            return
        asked = f" and max_tokens {request.max_tokens}" if request.max_tokens else ""
        message = f"The prompt's {prompt} tokens{asked} do not fit the context of {self._context_length} tokens."
        metadata = {"prompt_tokens": str(prompt), "context_length": str(self._context_length)}
        raise InvalidArgument(Reason.CONTEXT_EXCEEDED, message, metadata=metadata)


def _piece(sequence: Sequence, tokens: int) -> Piece:
    assert sequence.table is not None
    start = sequence.computed
    return Piece(
        sequence.token_ids[start : start + tokens],
        start,
        sequence.table.blocks,
        sequence.slot,
        wants_logits=tokens == sequence.pending,
    )


def _not_finite(request: Request) -> TrellisError:
    if request.adapter is None:
        return InternalError(Reason.INTERNAL, "The base model's answer is not a number.")
    message = (
        f"The adapter {request.adapter.digest[:24]} makes the model's answer not a number; its weights are broken."
    )
    return error_for(Reason.ADAPTER_INVALID, message, metadata={"adapter_digest": request.adapter.digest})
