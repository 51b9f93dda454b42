"""Who waits for the same thing before whom."""

from collections import defaultdict

from trellis.server.domain.trainer import TrainerBase
from trellis.server.scheduler.snapshot import QueuedJob


class Lines:
    """One line for capacity, and one for each base whose trainers are full."""

    def __init__(self) -> None:
        self._tenants: dict[TrainerBase | None, set[str]] = defaultdict(set)
        self._behind_others: set[str] = set()

    def join(self, job: QueuedJob, base: TrainerBase | None) -> None:
        """A job joins the line for a place on trainers of the base; None for the line for capacity."""
        tenants = self._tenants[base]
        if len(tenants) > (job.tenant in tenants):
            self._behind_others.add(job.uid)
        tenants.add(job.tenant)

    def is_behind_others(self, uid: str) -> bool:
        """Whether other tenants' jobs stand before it."""
        return uid in self._behind_others
