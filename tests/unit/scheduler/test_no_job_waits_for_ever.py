"""The scheduler in a small world: jobs run, trainers start and leave as told, newcomers flood. Nobody waits for ever."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import Phase, given, settings, strategies as st

from trellis.server.domain.trainer import Room, TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import decide
from trellis.server.scheduler.snapshot import ActiveJob, Alone, PresentTrainer, QueuedJob, Shared, Snapshot

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STEP = timedelta(seconds=2)
BANK_ROWS = 64
ROW_VALUES = 4096 * 17
"""Numbers of a rank row of all linears."""
BASES = [TrainerBase(f"baseModels/{name}", name, "r1", "0" * 64, "auto") for name in ("x", "y", "z")]


@dataclass
class Trainer:
    """Takes two steps to say what it has room for, and a step to leave."""

    view: PresentTrainer
    age: int = 0
    jobs: dict[str, Shared] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    flip: bool = False


@dataclass
class World:
    """Time in steps; what is done to it is what the control loops do."""

    capacity: Resources
    limit: int
    options: TrainerOptions
    durations: dict[str, int]
    queued: dict[str, QueuedJob] = field(default_factory=dict)
    running: dict[str, tuple[QueuedJob, int]] = field(default_factory=dict)
    trainers: dict[str, Trainer] = field(default_factory=dict)
    ends: dict[TrainerBase, datetime] = field(default_factory=dict)
    now: datetime = NOW
    made: int = 0

    def step(self) -> None:
        self.decide()
        self.check()
        self.run_jobs()
        self.run_trainers()
        self.now += STEP

    def snapshot(self) -> Snapshot:
        active = [ActiveJob(uid, job.tenant, _needs(job)) for uid, (job, _) in self.running.items()]
        trainers = [
            replace(t.view, open_jobs=len(t.jobs), unseen_rows=tuple(t.jobs[uid].rank_rows for uid in t.unseen))
            for t in self.trainers.values()
        ]
        return Snapshot(
            queued=tuple(self.queued.values()),
            active=tuple(active),
            capacity=self.capacity,
            tenant_running_limit=self.limit,
            now=self.now,
            trainers=tuple(trainers),
            options=self.options,
            last_ends=dict(self.ends),
        )

    def decide(self) -> None:
        decisions = decide(self.snapshot())
        assert not decisions.refuse
        keys = {}
        for new in decisions.start:
            keys[new.key] = uid = f"t{self.made:04}"
            self.made += 1
            needs = Resources(self.options.cpus * self.options.workers)
            self.trainers[uid] = Trainer(PresentTrainer(uid, new.base, needs, self.now))
        for admission in decisions.admit:
            job = self.queued.pop(admission.uid)
            self.running[job.uid] = (job, self.durations.get(job.uid, 1))
            if isinstance(job.work, Shared):
                trainer = self.trainers[keys.get(admission.trainer, admission.trainer)]
                assert trainer.view.base == job.work.base
                assert trainer.view.takes_jobs
                trainer.jobs[job.uid] = job.work
                trainer.unseen.append(job.uid)
        for uid in decisions.drain:
            self.trainers[uid].view = replace(self.trainers[uid].view, takes_jobs=False)

    def check(self) -> None:
        held = sum(t.view.needs.cpus for t in self.trainers.values())
        held += sum(_needs(job).cpus for job, _ in self.running.values())
        assert held <= self.capacity.cpus
        for trainer in self.trainers.values():
            assert len(trainer.jobs) <= self.options.max_jobs
            assert sum(map(_values, trainer.jobs.values())) <= BANK_ROWS * ROW_VALUES or trainer.view.room is None

    def run_jobs(self) -> None:
        for uid, (job, left) in list(self.running.items()):
            home = next((t for t in self.trainers.values() if uid in t.jobs), None)
            if home is not None and (home.view.room is None or uid in home.unseen):
                continue  # it loads
            if left > 1:
                self.running[uid] = (job, left - 1)
                continue
            del self.running[uid]
            if home is not None:
                del home.jobs[uid]

    def run_trainers(self) -> None:
        for uid, trainer in list(self.trainers.items()):
            trainer.age += 1
            if not trainer.view.takes_jobs and not trainer.jobs:
                del self.trainers[uid]
                self.ends[trainer.view.base] = self.now
            elif trainer.age >= 2:
                self._tell_room(trainer)

    def _tell_room(self, trainer: Trainer) -> None:
        """What does not fit into the bank is declined, and queued again."""
        values = BANK_ROWS * ROW_VALUES
        for uid, work in list(trainer.jobs.items()):
            if _values(work) > values:
                job, _ = self.running.pop(uid)
                del trainer.jobs[uid]
                self.queued[uid] = replace(job, queue_time=self.now, retry_time=self.now + timedelta(seconds=1))
            else:
                values -= _values(work)
        trainer.unseen.clear()
        room = Room(self.options.max_jobs - len(trainer.jobs), values // ROW_VALUES, 1024)
        trainer.view = replace(trainer.view, room=room, job_count=len(trainer.jobs))


def _needs(job: QueuedJob) -> Resources:
    return job.work.needs if isinstance(job.work, Alone) else Resources()


def _values(work: Shared) -> int:
    """The numbers that the trainer finds the job's adapter to have."""
    values = round(work.rank_rows * ROW_VALUES)
    assert abs(values - work.rank_rows * ROW_VALUES) < 1e-3
    return values


works = st.one_of(
    st.builds(Alone, st.sampled_from([Resources(1), Resources(2), Resources(3)])),
    st.builds(
        Shared,
        st.sampled_from(BASES),
        st.sampled_from([1, 5, 8, 16, 64]),
        st.just(1024),
        st.sampled_from([1.0, 0.25, 7 / 17, 1 / ROW_VALUES]),
    ),
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    options = TrainerOptions(
        workers=draw(st.integers(1, 2)),
        max_jobs=draw(st.integers(1, 4)),
        max_replicas=draw(st.integers(1, 2)),
        turn_seconds=draw(st.sampled_from([0.0, 3.0, 15.0])),
    )
    capacity = Resources(draw(st.integers(options.workers, 4)))
    found = draw(st.lists(st.tuples(st.sampled_from("abc"), works, st.integers(0, 40)), min_size=1, max_size=12))
    jobs = [
        QueuedJob(f"q{n:02}", tenant, NOW - timedelta(seconds=ago), work) for n, (tenant, work, ago) in enumerate(found)
    ]
    jobs = [job for job in jobs if _needs(job).fits_into(capacity)]
    durations = {job.uid: draw(st.integers(1, 9)) for job in jobs}
    return World(capacity, draw(st.integers(1, 5)), options, durations, {job.uid: job for job in jobs})


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(worlds(), st.lists(works, min_size=1, max_size=3))
def test_no_job_waits_for_ever(world: World, flood: list[Alone | Shared]) -> None:
    """Tenant `a` submits a job of each kind in every step, and all that was there at first is run all the same."""
    first = set(world.queued)
    flood = [work for work in flood if not isinstance(work, Alone) or work.needs.fits_into(world.capacity)]
    for turn in range(600):
        if not first & (world.queued.keys() | world.running.keys()):
            return
        for n, work in enumerate(flood):
            if len(world.queued) < 40:
                uid = f"n{turn:04}.{n}"
                world.queued[uid] = QueuedJob(uid, "a", world.now, work)
                world.durations[uid] = 1 + turn % 5
        world.step()
    raise AssertionError(f"these never ran: {sorted(first & world.queued.keys())}")


def test_two_bases_take_turns_where_one_trainer_fits() -> None:
    """Both have a hundred jobs; neither waits until the other has none."""
    world = World(Resources(1), 100, TrainerOptions(max_jobs=4, turn_seconds=6.0), {})
    for n in range(100):
        for which, base in enumerate(BASES[:2]):
            uid = f"j{which}{n:03}"
            made = NOW - timedelta(seconds=500 - n - 200 * which)
            world.queued[uid] = QueuedJob(uid, "ab"[which], made, Shared(base, 8, 1024))
    seen: list[str] = []
    for _ in range(1000):
        world.step()
        seen += [
            t.view.base.base_model for t in world.trainers.values() if not seen or t.view.base.base_model != seen[-1]
        ]
        assert len(world.trainers) <= 1
        if not world.queued and not world.running:
            break
    assert not world.queued
    assert len(seen) > 6, seen
    assert set(seen) == {"baseModels/x", "baseModels/y"}
