"""What an engine tells Prometheus, through Ray; no label grows with the number of tenants or adapters."""

import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from ray.serve import metrics

from trellis.engine import Output

_SECONDS: Final = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]


class EngineMetrics:
    """The counters, gauges and histograms of one replica; Ray adds application, deployment and replica."""

    def __init__(self) -> None:
        self.requests = metrics.Counter(
            "trellis_engine_requests", "Requests that ended, by finish reason or error.", tag_keys=("outcome",)
        )
        self.tokens = metrics.Counter("trellis_engine_tokens", "Tokens read and made.", tag_keys=("kind",))
        self.first_token = metrics.Histogram(
            "trellis_engine_first_token_seconds", "From a request's arrival to its first token.", boundaries=_SECONDS
        )
        self.running = metrics.Gauge("trellis_engine_running_requests", "Requests being answered.")
        self.waiting = metrics.Gauge("trellis_engine_waiting_requests", "Requests that wait.")
        self.loads = metrics.Counter("trellis_engine_adapter_loads", "Adapters loaded.")
        self.evictions = metrics.Counter("trellis_engine_adapter_evictions", "Adapters dropped to make room.")


class Observer(Protocol):
    """Sees a request's pieces pass by."""

    def see(self, output: Output) -> None:
        """One piece of the answer."""
        ...

    def end(self, outcome: str) -> None:
        """The request ended: a finish reason, or an error's reason."""
        ...


@dataclass(slots=True)
class RequestMeter:
    """Counts one request."""

    metrics: EngineMetrics
    _start: float = field(default_factory=time.monotonic)
    _last: Output | None = None

    def see(self, output: Output) -> None:
        """One piece of the answer."""
        if self._last is None and output.token_ids:
            self.metrics.first_token.observe(time.monotonic() - self._start)
        self._last = output

    def end(self, outcome: str) -> None:
        """The request ended: a finish reason, or an error's reason."""
        self.metrics.requests.inc(tags={"outcome": outcome})
        for kind in ("prompt", "completion"):
            count = 0 if self._last is None else getattr(self._last, f"{kind}_tokens")
            if count:
                self.metrics.tokens.inc(count, tags={"kind": kind})
