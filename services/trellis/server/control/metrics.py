"""What the loops measure, for Prometheus. Every label has a handful of values; tenants and jobs are in the logs."""

from collections import Counter as CountOf
from collections.abc import Sequence
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

from trellis.server.app.report_pace import ReportPace
from trellis.server.control.context import ControlContext
from trellis.server.domain.trainer import Trainer, TrainerState
from trellis.server.domain.tuning_job import ACTIVE, JobState

JOBS = Gauge("trellis_jobs", "Tuning jobs in each state.", ["state"])
REPORT_PAUSE = Gauge("trellis_report_pause_seconds", "How long a running job waits between two reports.")
OLDEST_QUEUED = Gauge("trellis_oldest_queued_job_seconds", "How long the oldest queued job has been there.")
QUEUE_WAIT = Histogram(
    "trellis_job_queue_wait_seconds",
    "How long an admitted job had waited since it was created, or since it might be tried again.",
    buckets=(1, 2, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
ATTEMPTS_STARTED = Counter("trellis_attempts_started_total", "Attempts that were given capacity.")
JOBS_PREEMPTED = Counter("trellis_jobs_preempted_total", "Jobs that the scheduler asked to give way to others.")
ATTEMPTS_LOST = Counter(
    "trellis_attempts_lost_total",
    "Attempts that did not end by themselves: not_started, silent, dead, stuck, trainer.",
    ["how"],
)
TRAINERS = Gauge("trellis_trainers", "Shared trainers in each state, by base model.", ["base_model", "state"])
TRAINER_JOBS = Gauge("trellis_trainer_jobs", "Jobs on the shared trainers of each base model.", ["base_model"])
TRAINER_TOKENS = Gauge(
    "trellis_trainer_tokens_per_second", "What the shared trainers of each base model train, over their last steps.",
    ["base_model"],
)  # fmt: skip
TRAINER_ROOM = Gauge(
    "trellis_trainer_room",
    "What running trainers said that they have room for: `jobs`, `rank_rows`.",
    ["base_model", "of"],
)
TRAINER_SILENCE = Gauge(
    "trellis_trainer_silent_seconds", "How long the most silent running trainer was not heard of.", ["base_model"]
)
TRAINERS_LOST = Counter(
    "trellis_trainers_lost_total",
    "Shared trainers that did not leave by themselves: not_started, silent, dead.",
    ["how"],
)
CLUSTER_CHANGES = Counter(
    "trellis_standing_cluster_changes_total",
    "Times that a cluster that stays was made, or corrected as it was not as the settings say.",
    ["cluster", "change"],
)
CLUSTER_TROUBLES = Gauge(
    "trellis_standing_cluster_trouble",
    "1 while something keeps a cluster that stays, or a part of it, from work; the log says more.",
    ["cluster", "code"],
)
ATTEMPTS_STOPPED = Counter(
    "trellis_attempts_stopped_total", "Attempts that were ended as they did not stop in time when asked to."
)
HOLDS_EXTENDED = Counter(
    "trellis_holds_extended_total",
    "Times that more was held in the ledger for a running job than it was estimated to take.",
)
BUDGETS_REACHED = Gauge(
    "trellis_budgets_reached",
    "Tenants' budgets of the present period that are used up to their soft or hard limit; the log names them.",
    ["meter", "limit"],
)
REPORTS = Counter("trellis_reports_total", "Dataset reports that were made: valid, invalid, failed.", ["result"])
REPORT_SECONDS = Histogram(
    "trellis_report_seconds",
    "How long it took to make a dataset's report.",
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
)
# There from the beginning: Prometheus sees no increase in a series that begins with its first count.
for _how in ("not_started", "silent", "dead", "stuck", "trainer"):
    ATTEMPTS_LOST.labels(_how)
for _how in ("not_started", "silent", "dead"):
    TRAINERS_LOST.labels(_how)


def waited_seconds(since: datetime, now: datetime) -> float:
    """From then to now, never negative."""
    return max(0.0, (now - since).total_seconds())


class MeasureJobs:
    """Counts the jobs. Each server of an installation reports the same figures: take the maximum over servers."""

    name = "measure"

    def __init__(self, context: ControlContext, pace: ReportPace | None = None) -> None:
        self._context = context
        self._pace = pace or ReportPace()

    async def once(self) -> bool:
        """One count."""
        async with self._context.units(write=False) as unit:
            counts = await unit.jobs.counts()
            oldest = await unit.jobs.in_states([JobState.QUEUED], 1)
        for state, count in counts.items():
            JOBS.labels(state.value).set(count)
        self._pace.see(sum(counts.get(state, 0) for state in ACTIVE))
        REPORT_PAUSE.set(self._pace.seconds)
        OLDEST_QUEUED.set(waited_seconds(oldest[0].create_time, self._context.now()) if oldest else 0.0)
        return False


class MeasureTrainers:
    """Counts the shared trainers. Each server of an installation reports the same figures."""

    name = "measure_trainers"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._bases: set[str] = set()
        """Those that had a trainer before: when they have none, the figure is 0 and does not stay."""

    async def once(self) -> bool:
        """One count."""
        async with self._context.units(write=False) as unit:
            trainers = await unit.trainers.live()
            counts = await unit.trainers.job_counts([trainer.uid for trainer in trainers])
        self._bases.update(trainer.base_model for trainer in trainers)
        states = CountOf((trainer.base_model, trainer.state) for trainer in trainers)
        jobs = CountOf[str]()
        for trainer in trainers:
            jobs[trainer.base_model] += counts.get(trainer.uid, 0)
        for base in self._bases:
            for state in (TrainerState.STARTING, TrainerState.RUNNING, TrainerState.DRAINING):
                TRAINERS.labels(base, state.value).set(states[base, state])
            TRAINER_JOBS.labels(base).set(jobs[base])
            speeds = [trainer.tokens_per_second for trainer in trainers if trainer.base_model == base]
            TRAINER_TOKENS.labels(base).set(sum(speeds))
        self._measure_room(trainers)
        return False

    def _measure_room(self, trainers: Sequence[Trainer]) -> None:
        now, lease = self._context.now(), self._context.settings.lease
        for base in self._bases:
            running = [one for one in trainers if one.base_model == base and one.state is TrainerState.RUNNING]
            rooms = [one.room for one in running if one.room is not None]
            TRAINER_ROOM.labels(base, "jobs").set(sum(room.jobs for room in rooms))
            TRAINER_ROOM.labels(base, "rank_rows").set(sum(room.rank_rows for room in rooms))
            silences = [waited_seconds(one.lease_expire_time - lease, now) for one in running]
            TRAINER_SILENCE.labels(base).set(max(silences, default=0.0))
