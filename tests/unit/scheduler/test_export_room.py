"""Which trainers leave so that an export gets its room."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from trellis.server.domain.trainer import TrainerBase
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.export_room import trainers_in_the_way
from trellis.server.scheduler.snapshot import ActiveJob, PresentTrainer, Snapshot

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ONE = Resources(cpus=1)
BASE = TrainerBase("baseModels/tiny", "/models/tiny", "r1", "0", "auto")


def trainer(uid: str, jobs: int, age: float = 60.0) -> PresentTrainer:
    return PresentTrainer(uid, BASE, ONE, NOW - timedelta(seconds=age), open_jobs=jobs)


def ways(*trainers: PresentTrainer, cpus: float = 2, held: Resources = ONE, active: bool = False) -> tuple[str, ...]:
    jobs = (ActiveJob("a1", "a", ONE),) if active else ()
    return trainers_in_the_way(Snapshot((), jobs, Resources(cpus), 9, NOW, trainers, held=held))


def test_nobody_leaves_for_nothing() -> None:
    assert ways(trainer("one", 1), trainer("two", 1), held=Resources()) == ()
    assert ways(trainer("one", 1)) == ()


def test_one_that_is_idle_leaves_before_one_that_is_busy() -> None:
    assert ways(trainer("busy", 1), trainer("idle", 0, age=1.0)) == ("idle",)


def test_of_busy_ones_that_with_fewest_jobs_leaves() -> None:
    assert ways(trainer("three", 3), trainer("two", 2)) == ("two",)


def test_one_that_has_just_begun_keeps_its_turn() -> None:
    assert ways(trainer("new", 1, age=5.0), cpus=1) == ()
    assert ways(trainer("new", 1, age=15.0), cpus=1) == ("new",)


def test_what_leaves_already_is_waited_for() -> None:
    leaving = replace(trainer("leaves", 1), takes_jobs=False)
    assert ways(trainer("stays", 1), leaving) == ()


@pytest.mark.parametrize("active", [True, False])
def test_as_many_leave_as_are_needed_or_none(active: bool) -> None:
    two = Resources(cpus=2)
    found = ways(trainer("one", 1), trainer("two", 2), cpus=3 if active else 2, held=two, active=active)
    assert found == ("one", "two")
    assert ways(trainer("one", 1), cpus=1, held=two, active=active) == ()
