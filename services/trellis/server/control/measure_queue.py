"""The queue by tenant, for Prometheus: the tenants with the most jobs in it by name, all others together."""

from typing import Final

from prometheus_client import Gauge, Histogram

from trellis.server.control.context import ControlContext
from trellis.server.control.metrics import waited_seconds

DECISION_SECONDS = Histogram(
    "trellis_scheduler_decision_seconds",
    "How long a decision over the whole queue took, without what it read and wrote.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
_JOBS = Gauge("trellis_queue_jobs", "Queued jobs of the tenants that have most, of all others as `other`.", ["tenant"])
_OLDEST = Gauge(
    "trellis_queue_oldest_seconds", "How long the oldest queued job of each of them has been there.", ["tenant"]
)
_NAMED: Final = 20
OTHER: Final = "other"


class MeasureQueue:
    """Looks at the queue. Each server of an installation reports the same figures: take the maximum over servers."""

    name = "measure_queue"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look."""
        async with self._context.units(write=False) as unit:
            tenants = await unit.jobs.queued_by_tenant()
        now = self._context.now()
        in_order = sorted(tenants, key=lambda one: (-one.jobs, one.oldest, one.tenant))
        rows = [(one.tenant, one.jobs, one.oldest) for one in in_order[:_NAMED]]
        if others := in_order[_NAMED:]:
            rows.append((OTHER, sum(one.jobs for one in others), min(one.oldest for one in others)))
        # A tenant whose jobs have all left shall not keep its last figures.
        _JOBS.clear()
        _OLDEST.clear()
        for tenant, jobs, oldest in rows:
            _JOBS.labels(tenant).set(jobs)
            _OLDEST.labels(tenant).set(waited_seconds(oldest, now))
        return False
