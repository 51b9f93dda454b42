"""Our own engine, with all that it needs, as a replica runs it."""

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch

from trellis.bases import BaseFacts
from trellis.engine import (
    AdapterLoader,
    AdapterRef,
    AdapterTiers,
    Engine,
    EngineUsage,
    GrammarCompiler,
    Output,
    Request,
    Runner,
    RunnerLimits,
)
from trellis.lora.host import HostAdapter
from trellis.native.threads import compute_alone, in_passing
from trellis.objects import ObjectStore
from trellis.serving.config import EngineConfig
from trellis.serving.loop import EngineLoop
from trellis.serving.metrics import EngineMetrics
from trellis.tokens import ChatTokenizer

_LOAD_THREADS: Final = 2
_LOADS_AHEAD: Final = 4
"""Adapters that are fetched before anybody has called them, at once: a called one waits behind them."""
_FULL: Final = 0.9
"""Of the host's memory, beyond which nothing is fetched ahead: it would push out what is in use."""


class TrellisEngine:
    """`ServedEngine` over trellis.engine; see serving.served for what each method promises."""

    def __init__(self, config: EngineConfig, base: BaseFacts, tokenizer: ChatTokenizer, metrics: EngineMetrics) -> None:
        torch.set_num_threads(config.options.threads)
        self._metrics = metrics
        self._host_bytes = config.options.host_bytes
        runner = in_passing(
            lambda: Runner.load(base, _limits(config), precision=config.precision, device=config.device)
        )
        load = _timed(AdapterLoader(ObjectStore.open(config.store_url), base, tokenizer.digest, runner.bank), metrics)
        threads = ThreadPoolExecutor(_LOAD_THREADS, "adapter-load", initializer=compute_alone)
        self._tiers = AdapterTiers(runner.bank, load, threads, self._host_bytes, metrics.count_event)
        grammars = GrammarCompiler(tokenizer)
        self._engine = Engine(
            runner, tokenizer, runner.context_length, self._tiers, config.limits, time.monotonic, grammars
        )
        self._loop = EngineLoop(self._engine, self._see)
        self._wanted: dict[str, AdapterRef] = {}
        self._ahead: deque[AdapterRef] = deque()
        self._seen = 0

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""
        return self._loop.is_alive

    def start(self) -> None:
        """Begin to answer."""
        self._loop.start()

    def stop(self) -> None:
        """End at once."""
        self._loop.stop()

    def stream(self, request: Request) -> AsyncGenerator[Output, None]:
        """The pieces of an answer; closing the iterator cancels the request."""
        return self._loop.stream(request)

    def usage(self) -> EngineUsage:
        """What it holds and does."""
        return self._engine.usage

    def want(self, adapters: Sequence[AdapterRef]) -> None:
        """Have these in the host's memory as far as it has room, and forget those that were wanted before."""
        self._loop.tell(lambda _: self._follow(adapters))

    def _follow(self, adapters: Sequence[AdapterRef]) -> None:
        wanted = {ref.digest: ref for ref in adapters}
        for digest in self._wanted.keys() - wanted.keys():
            self._tiers.forget(digest)
        # Each is fetched ahead once: one that was pushed out since, or is broken, waits until it is called.
        fresh = [ref for digest, ref in wanted.items() if digest not in self._wanted]
        self._ahead = deque([*fresh, *(ref for ref in self._ahead if ref.digest in wanted)])
        self._wanted = wanted
        room = self._host_bytes * _FULL
        while self._ahead and self._tiers.loading < _LOADS_AHEAD and self._tiers.host_bytes < room:
            self._tiers.fetch(self._ahead.popleft())

    def _see(self, engine: Engine) -> None:
        if engine.last_step.number != self._seen:
            self._seen = engine.last_step.number
            self._metrics.count_step(engine.last_step.answers, engine.last_step.tokens)
        self._metrics.look(self.usage)


def _limits(config: EngineConfig) -> RunnerLimits:
    options = config.options
    return RunnerLimits(bank_rows=options.bank_rows, max_slots=options.max_adapters, kv_bytes=config.kv_bytes)


def _timed(loader: AdapterLoader, metrics: EngineMetrics) -> Callable[[str, str], HostAdapter]:
    def load(digest: str, key: str) -> HostAdapter:
        start = time.monotonic()
        adapter = loader.load(digest, key)
        metrics.load_seconds.observe(time.monotonic() - start)
        return adapter

    return load
