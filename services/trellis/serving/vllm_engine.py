"""vLLM as the engine, for architectures that ours does not run; what it can't do it refuses.

It knows no tenants: requests are served in the order in which they come.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import fields
from typing import Any, Final

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from trellis.bases import BaseFacts
from trellis.engine import AdapterRef, EngineUsage, GrammarCompiler, Output, Request, Sampling, TierEvent
from trellis.engine.adapter_files import AdapterFiles, invalid
from trellis.engine.answers import Answers
from trellis.engine.request import DEFAULT_MAX_TOKENS
from trellis.engine.sampler import Choice, Sampler
from trellis.engine.sequence import Sequence as Answer
from trellis.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    Reason,
    ResourceExhausted,
    TrellisError,
)
from trellis.objects import ObjectStore
from trellis.serving.adapter_folders import AdapterFolder, AdapterFolders
from trellis.serving.config import EngineConfig
from trellis.serving.metrics import EngineMetrics
from trellis.tokens import ChatTokenizer

MAX_RANK: Final = 64
"""vLLM lays out as many rows for every adapter."""
_BUSY_SECONDS: Final = 1.0


class VllmEngine:
    """`ServedEngine` over vLLM's AsyncLLM; see serving.served for what each method promises."""

    def __init__(
        self,
        config: EngineConfig,
        base: BaseFacts,
        tokenizer: ChatTokenizer,
        metrics: EngineMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = config.options
        self._metrics = metrics
        self._tokenizer = tokenizer
        self._clock = clock
        self._context_length = base.context_length
        self._grammars = GrammarCompiler(tokenizer)
        files = AdapterFiles(ObjectStore.open(config.store_url), base, tokenizer.digest)
        self._folders = AdapterFolders(files, base, self._options.host_bytes, metrics.count_event)
        self._answers = 0
        self._llm = AsyncLLM.from_engine_args(_engine_args(config, base))

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""
        return not self._llm.errored

    def start(self) -> None:
        """It has begun; there is nothing to do."""

    def stop(self) -> None:
        """End at once."""
        self._llm.shutdown()
        self._folders.close()

    def usage(self) -> EngineUsage:
        """What it holds and does, as far as vLLM tells."""
        running = min(self._answers, self._options.max_running)
        digests = self._folders.digests
        return EngineUsage(
            running=running,
            waiting=self._answers - running,
            kv_blocks=0,
            kv_blocks_used=0,
            kv_blocks_cached=0,
            kv_block_tokens=0,
            bank_rows=0,
            bank_rows_used=0,
            pins=0,
            loading=0,
            resident_digests=digests[-_most_adapters(self._options.bank_rows, self._options.max_adapters) :],
            host_digests=digests,
            tokens_per_second=0.0,
        )

    def want(self, adapters: Sequence[AdapterRef]) -> None:  # noqa: ARG002  they come when they are called
        """Adapters are fetched when they are called; those that are not called any more go by themselves."""
        self._metrics.look(self.usage)

    async def stream(self, request: Request) -> AsyncGenerator[Output, None]:
        """The pieces of an answer; closing the iterator cancels the request."""
        answers = self._begin(request)
        self._answers += request.n
        try:
            request.check()
            self._check_length(request)
            self._check_room()
            async with aclosing(self._pieces(answers)) as pieces:
                async for piece in pieces:
                    yield piece
        except TrellisError as error:
            yield answers.fail(error)
        finally:
            self._answers -= request.n

    async def _pieces(self, answers: Answers) -> AsyncGenerator[Output, None]:
        request = answers.request
        params = await self._params(request, answers.sequences[0].max_tokens)
        async with AsyncExitStack() as stack:
            lora = None
            if request.adapter is not None:
                lora = _lora_request(await stack.enter_async_context(self._folders.using(request.adapter)))
                self._metrics.count_event(TierEvent.USED)
            # Tenants share no prefixes: how long an answer takes would tell one what another has asked.
            prompt = TokensPrompt(prompt_token_ids=list(request.prompt_ids), cache_salt=request.tenant or "-")
            said = self._llm.generate(prompt, params, request.request_id, lora_request=lora)
            async with aclosing(_in_time(said, request.deadline, self._clock)) as outputs:
                async for output in outputs:
                    answers.sequences[0].cached = output.num_cached_tokens or 0
                    for piece in _said(answers, output):
                        yield piece
                        if piece.is_last:
                            return
        raise InternalError(Reason.INTERNAL, "vLLM ended the answer before its end.")

    def _begin(self, request: Request) -> Answers:
        left = self._context_length - len(request.prompt_ids)
        most = min(request.max_tokens or DEFAULT_MAX_TOKENS, left)
        # vLLM chooses the tokens; ours only makes text of them.
        sampler = Sampler(Sampling(temperature=0.0), None)
        sequences = (Answer(request, index, sampler, self._tokenizer, most) for index in range(max(1, request.n)))
        return Answers(request, tuple(sequences))

    async def _params(self, request: Request, max_tokens: int) -> SamplingParams:
        bound = None
        if request.response_format is not None:
            schema = request.response_format.json_schema
            await asyncio.to_thread(self._grammars.compile, request.response_format)
            bound = (
                StructuredOutputsParams(json_object=True) if schema is None else StructuredOutputsParams(json=schema)
            )
        sampling = {field.name: getattr(request.sampling, field.name) for field in fields(Sampling)}
        return SamplingParams(
            **sampling,
            n=request.n,
            max_tokens=max_tokens,
            logprobs=request.logprobs,
            structured_outputs=bound,
            # Text, stop strings and the end of the turn are ours, so that both engines answer alike.
            detokenize=False,
            ignore_eos=True,
            stop_token_ids=sorted(self._tokenizer.eos_ids),
            output_kind=RequestOutputKind.DELTA,
        )

    def _check_length(self, request: Request) -> None:
        prompt = len(request.prompt_ids)
        if prompt + max(request.max_tokens, 1) <= self._context_length:
            return
        message = (
            f"The prompt's {prompt} tokens and the answer do not fit the context of {self._context_length} tokens."
        )
        metadata = {"prompt_tokens": str(prompt), "context_length": str(self._context_length)}
        raise InvalidArgument(Reason.CONTEXT_EXCEEDED, message, metadata=metadata)

    def _check_room(self) -> None:
        if self._answers > self._options.max_running + self._options.max_waiting:
            message = f"The engine has {self._answers} answers to make; try again shortly."
            raise ResourceExhausted(Reason.ENGINE_BUSY, message, retry_after=_BUSY_SECONDS)


def _engine_args(config: EngineConfig, base: BaseFacts) -> AsyncEngineArgs:
    options = config.options
    most = _most_adapters(options.bank_rows, options.max_adapters)
    dtypes = {"fp32": "float32", "bf16": "bfloat16", "auto": "auto" if options.gpus else "float32"}
    return AsyncEngineArgs(
        model=str(base.path),
        dtype=dtypes[options.precision],
        max_model_len=base.context_length,
        max_num_seqs=options.max_running,
        max_num_batched_tokens=max(options.step_tokens, options.max_running),
        kv_cache_memory_bytes=config.kv_bytes or None,
        enable_lora=True,
        max_lora_rank=MAX_RANK,
        max_loras=most,
        max_cpu_loras=max(most, options.max_adapters),
        enforce_eager=not options.gpus,  # compiling takes minutes and gains little on a CPU
        enable_prefix_caching=True,
        structured_outputs_config={"backend": "guidance"},
        generation_config="vllm",
        disable_log_stats=True,
        enable_log_requests=False,
    )


def _most_adapters(bank_rows: int, max_adapters: int) -> int:
    """In one step."""
    return max(1, min(max_adapters, bank_rows // MAX_RANK))


def _lora_request(folder: AdapterFolder) -> LoRARequest:
    facts = folder.loading.result()
    if facts.rank > MAX_RANK:
        raise invalid(folder.digest, f"its rank is {facts.rank}, and with vLLM {MAX_RANK} is the highest")
    return LoRARequest(folder.digest, folder.number, str(folder.path))


async def _in_time(
    outputs: AsyncGenerator[Any, None], deadline: float | None, clock: Callable[[], float]
) -> AsyncGenerator[Any, None]:
    """The outputs, as long as there is time; what vLLM can't do is the caller's fault or ours."""
    async with aclosing(outputs):
        while True:
            try:
                left = None if deadline is None else max(0.0, deadline - clock())
                yield await asyncio.wait_for(anext(outputs), left)
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = "The answer was not ready in time."
                raise DeadlineExceeded(Reason.DEADLINE_EXCEEDED, message) from None
            except ValueError as error:
                raise InvalidArgument(Reason.INVALID_FIELD, f"vLLM can't do this: {error}") from error


def _said(answers: Answers, output: Any) -> list[Output]:
    """vLLM's tokens as pieces of ours; what it says after our end of an answer is passed over."""
    pieces = []
    for completion in output.outputs:
        sequence = answers.sequences[completion.index]
        chances = completion.logprobs or [None] * len(completion.token_ids)
        for token_id, chance in zip(completion.token_ids, chances, strict=True):
            if not sequence.is_finished:
                pieces.append(answers.append(sequence, _choice(token_id, chance, answers.request.logprobs)))
        if completion.finish_reason is not None and not sequence.is_finished:
            raise InternalError(Reason.INTERNAL, f"vLLM ended an answer: {completion.finish_reason}.")
    return pieces


def _choice(token_id: int, chances: Mapping[int, Any] | None, wanted: int | None) -> Choice:
    if chances is None or wanted is None:
        return Choice(token_id, 0.0)
    ranked = sorted((chance.rank, other, chance.logprob) for other, chance in chances.items())
    return Choice(token_id, chances[token_id].logprob, tuple((other, logprob) for _, other, logprob in ranked[:wanted]))
