"""What an engine tells Prometheus, through Ray; no label grows with the number of tenants or adapters."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ray.serve import metrics

from trellis.engine import EngineUsage, Output, TierEvent
from trellis.serving.tenant_labels import TenantLabels

_SECONDS: Final = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
_TOKEN_SECONDS: Final = [0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0]
_COUNTS: Final = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0]
_GAUGES: Final = {
    "trellis_engine_running_requests": "Answers being made.",
    "trellis_engine_waiting_requests": "Answers that wait.",
    "trellis_engine_parked_requests": "Answers that wait for their adapter's slot, which others have for some steps.",
    "trellis_engine_bank_rows": "Rank rows of the adapter bank.",
    "trellis_engine_bank_rows_used": "Rank rows that adapters hold.",
    "trellis_engine_bank_adapters": "Adapters in the bank.",
    "trellis_engine_host_adapters": "Adapters in the host's memory.",
    "trellis_engine_loading_adapters": "Adapters on their way into the host's memory.",
    "trellis_engine_kv_blocks_used": "Blocks of the KV cache that answers hold.",
    "trellis_engine_kv_blocks_cached": "Blocks that hold nothing but reusable prefixes.",
    "trellis_engine_kv_blocks_free": "Blocks that hold nothing.",
    "trellis_engine_tokens_per_second": "Of the last steps, prompts and answers together.",
}
_GAUGE_PERIOD: Final = 1.0
"""Seconds between two looks at what changes with every step."""


class EngineMetrics:
    """The counters, gauges and histograms of one replica; Ray adds application, deployment and replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = float("-inf")
        self.labels = TenantLabels()
        self.requests = metrics.Counter(
            "trellis_engine_requests", "Requests that ended, by finish reason or error.", tag_keys=("outcome",)
        )
        self.tokens = metrics.Counter(
            "trellis_engine_tokens", "Tokens: `prompt`, of these `cached`, and `completion`.", tag_keys=("kind",)
        )
        self.tenant_tokens = metrics.Counter(
            "trellis_engine_tenant_tokens",
            "The same of the busiest tenants.",
            tag_keys=("tenant", "kind"),  # type: ignore[arg-type]  # Ray says a tuple of one and means any
        )
        self.first_token = metrics.Histogram(
            "trellis_engine_first_token_seconds", "From a request's arrival to its first token.", boundaries=_SECONDS
        )
        self.next_token = metrics.Histogram(
            "trellis_engine_next_token_seconds", "Between a request's tokens, on average.", boundaries=_TOKEN_SECONDS
        )
        self.queued = metrics.Histogram(
            "trellis_engine_queue_seconds", "From a request's arrival to the step that began with it.",
            boundaries=_SECONDS,
        )  # fmt: skip
        self.step_answers = metrics.Histogram(
            "trellis_engine_step_answers", "Answers that a step worked at.", boundaries=_COUNTS
        )
        self.step_tokens = metrics.Histogram(
            "trellis_engine_step_tokens", "Tokens that a step computed.", boundaries=_COUNTS
        )
        self.adapters = metrics.Counter(
            "trellis_engine_adapter_events",
            "Adapters `fetched` into the host's memory or `failed`, `copied` into the bank, `used` by an answer from"
            " there, `evicted` from the bank, `dropped` from memory.",
            tag_keys=("event",),
        )
        self.load_seconds = metrics.Histogram(
            "trellis_engine_adapter_load_seconds", "To fetch an adapter from the object store.", boundaries=_SECONDS
        )
        self._gauges = {name: metrics.Gauge(name, said) for name, said in _GAUGES.items()}

    def count_event(self, event: TierEvent) -> None:
        """Something happened to an adapter."""
        self.adapters.inc(tags={"event": str(event)})

    def count_step(self, answers: int, tokens: int) -> None:
        """A step was done."""
        self.step_answers.observe(answers)
        self.step_tokens.observe(tokens)

    def look(self, usage: Callable[[], EngineUsage]) -> None:
        """Set the gauges, if it is time to."""
        now = self._clock()
        if now - self._looked < _GAUGE_PERIOD:
            return
        self._looked = now
        for name, value in _levels(usage()).items():
            self._gauges[name].set(value)

    def count_tokens(self, tenant: str, kind: str, count: int) -> None:
        """Tokens of a tenant were read or made."""
        if count:
            self.tokens.inc(count, tags={"kind": kind})
            self.tenant_tokens.inc(count, tags={"kind": kind, "tenant": self.labels.of(tenant, count)})


def _levels(usage: EngineUsage) -> dict[str, float]:
    return {
        "trellis_engine_running_requests": usage.running,
        "trellis_engine_waiting_requests": usage.waiting,
        "trellis_engine_parked_requests": usage.parked,
        "trellis_engine_bank_rows": usage.bank_rows,
        "trellis_engine_bank_rows_used": usage.bank_rows_used,
        "trellis_engine_bank_adapters": len(usage.resident_digests),
        "trellis_engine_host_adapters": len(usage.host_digests),
        "trellis_engine_loading_adapters": usage.loading,
        "trellis_engine_kv_blocks_used": usage.kv_blocks_used,
        "trellis_engine_kv_blocks_cached": usage.kv_blocks_cached,
        "trellis_engine_kv_blocks_free": usage.kv_blocks - usage.kv_blocks_used - usage.kv_blocks_cached,
        "trellis_engine_tokens_per_second": usage.tokens_per_second,
    }


class Observer(Protocol):
    """Sees a request's pieces pass by."""

    def begin(self, tenant: str) -> None:
        """The request is this tenant's."""
        ...

    def see(self, output: Output) -> None:
        """One piece of the answer."""
        ...

    def end(self, outcome: str) -> None:
        """The request ended: a finish reason, or an error's reason."""
        ...


@dataclass(slots=True)
class _Tokens:
    """What has been counted of a request."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


class RequestMeter:
    """Counts one request; its tokens in portions, for an answer can take long."""

    def __init__(self, metrics: EngineMetrics, clock: Callable[[], float] = time.monotonic, portion: int = 16) -> None:
        self._metrics = metrics
        self._clock = clock
        self._portion = portion
        self._tenant = ""
        self._start = clock()
        self._first: float | None = None
        self._last = self._start
        self._now = _Tokens()
        self._counted = _Tokens()

    def begin(self, tenant: str) -> None:
        """The request is this tenant's."""
        self._tenant = tenant

    def see(self, output: Output) -> None:
        """One piece of the answer."""
        if output.error is not None and self._first is None:
            return  # nothing was read yet
        self._now = _Tokens(output.prompt_tokens, output.cached_prompt_tokens, output.completion_tokens)
        if output.token_ids:
            self._last = self._clock()
            if self._first is None:
                self._first = self._last
                self._metrics.first_token.observe(self._first - self._start)
                if output.queued_seconds is not None:
                    self._metrics.queued.observe(output.queued_seconds)
                self._count()
        if self._now.completion - self._counted.completion >= self._portion:
            self._count()

    def end(self, outcome: str) -> None:
        """The request ended: a finish reason, or an error's reason."""
        self._count()
        self._metrics.requests.inc(tags={"outcome": outcome})
        if self._first is not None and self._now.completion > 1:
            self._metrics.next_token.observe((self._last - self._first) / (self._now.completion - 1))

    def _count(self) -> None:
        for kind in _Tokens.__slots__:
            count = getattr(self._now, kind) - getattr(self._counted, kind)
            self._metrics.count_tokens(self._tenant, kind, count)
        self._counted = self._now
