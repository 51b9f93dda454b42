"""What Prometheus sees of the database: its connections, its statements, its errors."""

import time
from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

_SECONDS = Histogram(
    "trellis_database_statement_seconds",
    "How long statements took until they were answered.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
)
_ERRORS = Counter(
    "trellis_database_errors_total", "Statements and connections that failed, by the error's kind.", ["error"]
)
_BEGUN: Final = "trellis_begun"


class _Connections(Collector):
    """Of the pools of all engines that are measured."""

    def __init__(self) -> None:
        self.engines: list[AsyncEngine] = []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of this moment."""
        said = "Connections of the pool that are `used`, that `rest`, and the `most` that there may be."
        family = GaugeMetricFamily("trellis_database_connections", said, labels=["state"])
        pools = [engine.sync_engine.pool for engine in self.engines]
        queues = [pool for pool in pools if isinstance(pool, QueuePool)]
        if queues or not pools:
            family.add_metric(["used"], float(sum(pool.checkedout() for pool in queues)))
            family.add_metric(["rest"], float(sum(pool.checkedin() for pool in queues)))
            family.add_metric(["most"], float(sum(pool.size() + max(0, pool._max_overflow) for pool in queues)))  # noqa: SLF001  it has no other word for it
        yield family


_connections = _Connections()
REGISTRY.register(_connections)


def measure(engine: AsyncEngine) -> None:
    """Measure this engine from now on."""
    _connections.engines.append(engine)
    event.listen(engine.sync_engine, "before_cursor_execute", _begin)
    event.listen(engine.sync_engine, "after_cursor_execute", _end)
    event.listen(engine.sync_engine, "handle_error", _fail)


def forget(engine: AsyncEngine) -> None:
    """It is closed."""
    if engine in _connections.engines:
        _connections.engines.remove(engine)


def _begin(_connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool) -> None:
    if context is not None:
        setattr(context, _BEGUN, time.perf_counter())


def _end(_connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool) -> None:
    if (begun := getattr(context, _BEGUN, None)) is not None:
        _SECONDS.observe(time.perf_counter() - begun)


def _fail(context: Any) -> None:
    _ERRORS.labels(type(context.original_exception).__name__).inc()
