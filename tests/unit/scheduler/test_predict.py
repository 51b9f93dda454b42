"""Predicted starts: exact where everything is known, and within their intervals where it is not."""

import math
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.unit.scheduler.test_explain import HOUR, NOW, active, queued, snapshot

from trellis.server.domain.quota import Quota
from trellis.server.domain.trainer import TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.decisions import Decisions
from trellis.server.scheduler.past_use import PastUse
from trellis.server.scheduler.policy import decide
from trellis.server.scheduler.predict import Prediction, predict
from trellis.server.scheduler.snapshot import QueuedJob, Shared, Snapshot, TenantShare
from trellis.server.scheduler.timeline import Happening, Pace, Timeline
from trellis.server.simulator.simulation import ORIGIN, Simulation, SimulationOptions
from trellis.server.simulator.synthetic import Mix, synthetic_trace

X = TrainerBase("baseModels/x", "x", "r1", "0" * 64, "auto")


def waits(found: Snapshot, **options: Any) -> dict[str, float]:
    """In seconds, by uid."""
    return {uid: (one.start - NOW).total_seconds() for uid, one in predict(found, **options).items()}


@pytest.mark.parametrize("looks", [30_000, 0], ids=["by plans", "filled in"])
def test_a_line_of_jobs_starts_one_after_another(looks: int) -> None:
    jobs = [queued(f"j{number}", 4, age=100 - number) for number in range(5)]
    found = waits(snapshot(*jobs, running=(active("r", 4, left=600),)), looks=looks)
    assert found == {f"j{number}": pytest.approx(600 + number * HOUR, rel=0.06) for number in range(5)}


def test_a_quota_keeps_a_tenants_jobs_one_after_another_while_another_tenants_run_beside_them() -> None:
    jobs = [queued(f"a{n}", 2, age=100 - n) for n in range(3)] + [queued(f"b{n}", 2, "globex", age=n) for n in range(2)]
    tenants = {"acme": TenantShare(quota=Quota(accelerators=2))}
    found = waits(snapshot(*jobs, cpus=6, tenants=tenants))
    assert [found[uid] // HOUR for uid in ("a0", "a1", "a2", "b0", "b1")] == [0, 1, 2, 0, 0]


def test_jobs_of_a_base_share_a_trainer() -> None:
    jobs = [replace(queued(f"j{number}"), work=Shared(X, 8, 512)) for number in range(6)]
    options = TrainerOptions(max_jobs=4, turn_seconds=7 * 24 * HOUR)
    found = waits(snapshot(*jobs, cpus=1, options=options))
    assert sorted(one // HOUR for one in found.values()) == [0, 0, 0, 0, 1, 1]


def test_an_unknown_length_is_taken_to_be_the_default() -> None:
    found = waits(snapshot(queued("j", 4), running=(replace(active("r", 4), expected_end=None, start_time=NOW),)))
    assert found == {"j": pytest.approx(HOUR, abs=2)}


def test_a_job_that_is_overdue_is_taken_to_go_on_for_a_while() -> None:
    overdue = active("r", 4, left=-1800)
    assert 0 < waits(snapshot(queued("j", 4), running=(overdue,)))["j"] <= 600


def test_what_can_never_start_is_not_foretold() -> None:
    assert waits(snapshot(queued("j", 5), queued("k", 1))).keys() == {"k"}


def test_a_long_queue_is_foretold_with_bounded_work() -> None:
    jobs = [queued(f"j{n:05}", 1 + n % 3, f"t{n % 40}", age=n, seconds=600.0 + n % 7) for n in range(3000)]
    found = snapshot(*jobs, cpus=100)
    assert predict(found, looks=1).keys() == {job.uid for job in jobs}
    last = max(waits(found, looks=1).values())
    work = sum(job.work.needs.cpus * (job.seconds or 0) for job in jobs if not isinstance(job.work, Shared))
    assert work / 100 * 0.9 <= last <= work / 100 * 1.5


def test_a_long_queue_is_foretold_though_nothing_of_it_starts_for_many_ends() -> None:
    jobs = [queued(f"j{n:05}", 100, f"t{n % 40}", age=n, seconds=600.0) for n in range(2000)]
    ending = tuple(active(f"r{n}", 1, left=60 * n + 60) for n in range(100))
    found = waits(snapshot(*jobs, cpus=100, running=ending))
    assert found.keys() == {job.uid for job in jobs}
    assert [min(found.values()), max(found.values())] == pytest.approx([6000, 6000 + 1999 * 600], rel=0.06)


def test_the_timeline_never_takes_more_than_there_is_and_ends_every_job() -> None:
    jobs = [queued(f"j{n}", 1 + n % 4, f"t{n % 3}", age=n, priority=int(n % 9 == 0)) for n in range(30)]
    shared = [replace(queued(f"s{n}", of="lab"), work=Shared(X, 8, 512)) for n in range(10)]
    start = snapshot(*jobs, *shared, cpus=6)
    start = replace(start, policy=replace(start.policy, least_run_seconds=0.0))
    timeline = Timeline(start, Pace(start=5, leave=10, load=20, checkpoint=100))
    happened = []
    for _ in range(300):
        decisions = decide(timeline.snapshot())
        happened += timeline.apply(decisions)
        assert timeline.held().fits_into(start.capacity)
        after = timeline.next()
        if after is None:
            break
        happened += timeline.advance(max(after, timeline.now + 1))
    ended = [one.uid for one in happened if one.what is Happening.ENDED]
    assert sorted(ended) == sorted(job.uid for job in start.queued)
    preempted = [one for one in happened if one.what is Happening.PREEMPTED]
    started = [one for one in happened if one.what is Happening.STARTED]
    assert len(started) == len(ended) + len(preempted)
    assert all(0 <= one.lost < 100 for one in preempted)


def test_past_use_halves_with_each_half_life() -> None:
    used = PastUse(100.0, {"a": 8.0})
    assert used.of("a", 100.0) == pytest.approx(4.0)
    used.hold("a", 0.5, 100.0)
    # What is held for ever is remembered as its share times the mean life of a second, half-life / ln 2.
    assert used.of("a", 100_000.0) == pytest.approx(0.5 * 100 / math.log(2))
    used.hold("a", -0.5, 100_000.0)
    assert used.of("a", 100_100.0) == pytest.approx(0.25 * 100 / math.log(2))
    assert used.share("a") == pytest.approx(0.0)


class _Coverage:
    """Predictions made now and then while a simulation runs, and whether what came lay between."""

    def __init__(self, mix: Mix, every: int) -> None:
        self.said: list[tuple[str, float, Prediction]] = []
        self._every, self._count = every, 0
        self.record = Simulation(synthetic_trace(mix), SimulationOptions(), clock=lambda: 0.0, watch=self._watch).run()

    def _watch(self, seen: Snapshot, _decisions: Decisions) -> None:
        self._count += 1
        if self._count % self._every == 0:
            at = (seen.now - ORIGIN).total_seconds()
            self.said += [(uid, at, one) for uid, one in predict(seen).items()]

    def parts(self) -> tuple[float, int]:
        within = [self._lies_between(*one) for one in self.said]
        found = [one for one in within if one is not None]
        return sum(found) / len(found), len(found)

    def _lies_between(self, uid: str, at: float, said: Prediction) -> bool | None:
        start = next((one for one in self.record.jobs[uid].starts if one >= at), None)
        return None if start is None else said.earliest <= _time(start) <= said.latest


def _time(at: float) -> datetime:
    return ORIGIN + timedelta(seconds=at)


@pytest.mark.parametrize("mix", [Mix(150, 8, 32, seed=2), Mix(150, 8, 32, seed=3, load=2.0, quotas=False)])
def test_intervals_hold_what_comes_though_estimates_are_wrong(mix: Mix) -> None:
    part, count = _Coverage(mix, every=16).parts()
    assert count > 100
    assert part >= 0.8


def test_a_queued_job_is_not_changed_by_being_foretold() -> None:
    job: QueuedJob = queued("j", 4)
    found = snapshot(job, running=(active("r", 4),))
    assert predict(found) == predict(found)
    assert found.queued == (job,)
