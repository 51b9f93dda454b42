"""What is decided about a snapshot and what follows from it, reckoned once for all who ask."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from trellis.server.domain.tuning_job import QueueReason
from trellis.server.scheduler.policy import decisions_of, plan_of
from trellis.server.scheduler.predict import Prediction, predict
from trellis.server.scheduler.reasons import reasons_of
from trellis.server.scheduler.snapshot import QueuedJob, Snapshot


class Outlook:
    """A snapshot with its plan, its decisions and, once somebody asks for one, its predictions."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.plan = plan_of(snapshot)
        self.decisions = decisions_of(self.plan)
        self.jobs: Mapping[str, QueuedJob] = {job.uid: job for job in snapshot.queued}
        self.admitted = frozenset(admission.uid for admission in self.decisions.admit)

    @cached_property
    def predictions(self) -> Mapping[str, Prediction]:
        """By uid: when jobs are likely to start, of those of which that can be said."""
        return predict(self.snapshot)

    def reasons(self, uid: str) -> tuple[QueueReason, ...]:
        """All for which a job waits, the first in precedence first."""
        position = self.decisions.waiting[uid].position
        return tuple(reasons_of(self.jobs[uid], self.snapshot, self.plan, position))

    def before(self, uid: str) -> Sequence[QueuedJob]:
        """The jobs that stand before one that waits, the next to start first."""
        return [self.jobs[one] for one in self.decisions.order[: self.decisions.waiting[uid].position]]
