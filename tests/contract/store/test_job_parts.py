"""Jobs' events, attempts, metrics, checkpoints and logs."""

import asyncio
import math
from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.errors import AlreadyExists, NotFound
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.retention import best_of
from trellis.server.domain.tuning_job import Checkpoint, EventLevel, JobEvent, JobState, MetricPoint, Progress

UID = "uid-acme-1"


def _event(message: str) -> JobEvent:
    return JobEvent(samples.NOW, EventLevel.INFO, message)


def _point(step: int, **values: float) -> MetricPoint:
    return MetricPoint(step, values, samples.at(step))


def _checkpoint(step: int, attempt: int = 1) -> Checkpoint:
    return Checkpoint(step, attempt, f"k{step}", 2**33, samples.at(step))


@pytest.fixture(autouse=True)
async def _job(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job())


async def test_events_come_back_with_their_details(units: UnitOfWorkFactory) -> None:
    events = [
        replace(_event("state"), state=JobState.RUNNING, level=EventLevel.WARNING),
        replace(_event("progress"), progress=Progress(1, 2, "training", 0.5, None, 3)),
        replace(_event("metrics"), metrics=_point(1, loss=0.5)),
        replace(_event("checkpoint"), checkpoint=_checkpoint(1)),
    ]
    async with units() as unit:
        job = await unit.jobs.get_by_uid(UID, for_update=True)
        assert job is not None
        saved = await unit.jobs.save(job, events)
        assert saved.event_count == 4
        numbered = [replace(event, sequence=n) for n, event in enumerate(events, 1)]
        assert await unit.jobs.events(UID, 0, 10) == numbered
        assert await unit.jobs.events(UID, 1, 2) == numbered[1:3]
        assert await unit.jobs.events(UID, 4, 10) == []


async def test_saving_an_old_copy_still_numbers_without_gaps(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        job = await unit.jobs.get_by_uid(UID, for_update=True)
        assert job is not None
        await unit.jobs.save(job, [_event("one")])
        assert (await unit.jobs.save(job, [_event("two")])).event_count == 2
        found = await unit.jobs.get_by_uid(UID)
    assert found is not None
    assert found.event_count == 2


async def test_writers_at_once_leave_no_gap(units: UnitOfWorkFactory, other_units: UnitOfWorkFactory) -> None:
    async def report(factory: UnitOfWorkFactory, writer: int) -> None:
        for turn in range(5):
            async with factory() as unit:
                job = await unit.jobs.get_by_uid(UID, for_update=True)
                assert job is not None
                step = job.progress.step + 1
                moved = replace(job, progress=Progress(step=step))
                events = [_event(f"{writer}.{turn}.a"), _event(f"{writer}.{turn}.b")]
                await unit.jobs.save(moved, events)
                if turn != 3:  # one that was taken back leaves no gap either
                    await unit.commit()

    await asyncio.gather(*(report(factory, n) for n, factory in enumerate([units, other_units] * 2)))
    async with units(write=False) as unit:
        job = await unit.jobs.get_by_uid(UID)
        events = await unit.jobs.events(UID, 0, 100)
    assert job is not None
    assert (job.event_count, job.progress.step) == (32, 16)
    assert [event.sequence for event in events] == list(range(1, 33))
    pairs = [event.message[:-2] for event in events]
    assert pairs[::2] == pairs[1::2]


async def test_attempts_are_found_and_saved(units: UnitOfWorkFactory) -> None:
    first = samples.attempt()
    async with units() as unit:
        jobs = unit.jobs
        await jobs.add_attempt(first)
        assert await jobs.get_attempt(UID, 1) == first
        assert await jobs.get_attempt(UID, 2) is None
        assert await jobs.find_attempt(first.token_hash) == first
        assert await jobs.find_attempt("0" * 64) is None
        with pytest.raises(AlreadyExists):
            await jobs.add_attempt(first)
        with pytest.raises(AlreadyExists):
            await jobs.add_attempt(replace(first, number=2))  # the same token
        ended = replace(
            first,
            next_report=7,
            start_time=samples.at(1),
            end_time=samples.at(2),
            outcome="Lost.",
            cleaned_up=True,
            step=5,
            step_time=samples.at(2),
            used_tokens=2**40,
            used_seconds=0.5,
        )
        await jobs.save_attempt(ended)
        assert await jobs.get_attempt(UID, 1) == ended
        with pytest.raises(NotFound):
            await jobs.save_attempt(samples.attempt(number=9))


async def test_attempts_are_sorted_by_what_is_to_be_done(units: UnitOfWorkFactory) -> None:
    quick = samples.attempt(number=1, seconds=2, lease_expire_time=samples.at(10))
    slow = samples.attempt(number=2, seconds=1, lease_expire_time=samples.at(20))
    dirty = samples.attempt(number=3, end_time=samples.at(9))
    dirtier = samples.attempt(number=4, end_time=samples.at(8))
    clean = samples.attempt(number=5, end_time=samples.at(7), cleaned_up=True)
    async with units() as unit:
        for attempt in (quick, slow, dirty, dirtier, clean):
            await unit.jobs.add_attempt(attempt)
        assert await unit.jobs.open_attempts(10) == [slow, quick]
        assert await unit.jobs.open_attempts(1) == [slow]
        assert await unit.jobs.expired_attempts(samples.at(9.9), 10) == []
        assert await unit.jobs.expired_attempts(samples.at(10), 10) == [quick]
        assert await unit.jobs.expired_attempts(samples.at(99), 10) == [quick, slow]
        assert await unit.jobs.attempts_to_clean_up(10) == [dirtier, dirty]
        assert await unit.jobs.attempts_to_clean_up(1) == [dirtier]


async def test_metrics_are_kept_once_value_by_value(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.jobs.add_metrics(UID, [_point(1, loss=3.0), _point(2, loss=2.0, rate=0.1)])
        await unit.jobs.add_metrics(UID, [_point(1, loss=9.0, rate=0.2), _point(3, loss=1.0)])
        await unit.jobs.add_metrics(UID, [])
        page = await unit.jobs.metrics(UID, 10, None)
    assert page.items == [_point(1, loss=3.0, rate=0.2), _point(2, loss=2.0, rate=0.1), _point(3, loss=1.0)]
    assert page.next_cursor is None


async def test_metrics_come_in_pages_of_steps(units: UnitOfWorkFactory) -> None:
    points = [_point(step, a=1.0, b=2.0, c=3.0) for step in range(1, 8)]
    async with units() as unit:
        await unit.jobs.add_metrics(UID, points)
        first = await unit.jobs.metrics(UID, 3, None)
        second = await unit.jobs.metrics(UID, 3, first.next_cursor)
        third = await unit.jobs.metrics(UID, 3, second.next_cursor)
        assert (await unit.jobs.metrics("uid-9", 3, None)).items == []
    assert [*first.items, *second.items, *third.items] == points
    assert third.next_cursor is None


async def test_checkpoints(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        jobs = unit.jobs
        assert await jobs.latest_checkpoint(UID) is None
        for step in (10, 5, 100):
            await jobs.add_checkpoint(UID, _checkpoint(step))
        again = _checkpoint(100, attempt=2)
        await jobs.add_checkpoint(UID, again)
        assert await jobs.latest_checkpoint(UID) == again
        first = await jobs.checkpoints(UID, 2, None)
        second = await jobs.checkpoints(UID, 2, first.next_cursor)
        assert [*first.items, *second.items] == [_checkpoint(5), _checkpoint(10), again]
        await jobs.delete_checkpoint(UID, 100)
        assert await jobs.latest_checkpoint(UID) == _checkpoint(10)


async def test_logs_are_read_from_an_offset(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        for attempt, text in ((1, "one\n"), (1, ""), (1, "zwei🪴\n"), (2, "three\n")):
            await unit.jobs.append_log(UID, attempt, text)
        assert await unit.jobs.read_log(UID, 0, 10) == [(4, 1, "one\n"), (10, 1, "zwei🪴\n"), (16, 2, "three\n")]
        assert await unit.jobs.read_log(UID, 4, 1) == [(10, 1, "zwei🪴\n")]
        assert await unit.jobs.read_log(UID, 8, 1) == [(10, 1, "🪴\n")]
        assert await unit.jobs.read_log(UID, 16, 10) == []


async def test_log_writers_at_once_leave_no_gap(units: UnitOfWorkFactory, other_units: UnitOfWorkFactory) -> None:
    async def write(factory: UnitOfWorkFactory, writer: int) -> None:
        for turn in range(4):
            async with factory() as unit:
                await unit.jobs.append_log(UID, writer, f"{writer}.{turn}\n")
                await unit.commit()

    await asyncio.gather(*(write(factory, n) for n, factory in enumerate([units, other_units] * 2)))
    async with units(write=False) as unit:
        pieces = await unit.jobs.read_log(UID, 0, 100)
    assert [end for end, _, _ in pieces] == list(range(4, 68, 4))


async def test_a_save_keeps_the_log_where_it_was(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        job = await unit.jobs.get_by_uid(UID, for_update=True)
        assert job is not None
        await unit.jobs.append_log(UID, 1, "one\n")
        await unit.jobs.save(job)
        await unit.jobs.append_log(UID, 1, "two\n")
        assert [end for end, _, _ in await unit.jobs.read_log(UID, 0, 10)] == [4, 8]


async def test_a_checkpoint_keeps_what_is_known_of_it(units: UnitOfWorkFactory) -> None:
    measured = replace(_checkpoint(3), valid_loss=0.125)
    async with units() as unit:
        await unit.jobs.add_checkpoint(UID, measured)
        assert await unit.jobs.get_checkpoint(UID, 3) == measured
        assert await unit.jobs.get_checkpoint(UID, 4) is None
        pinned = replace(measured, pinned=True)
        await unit.jobs.add_checkpoint(UID, pinned)
        assert (await unit.jobs.checkpoints(UID, 10, None)).items == [pinned]


async def test_the_best_checkpoint_is_the_rule_s(units: UnitOfWorkFactory) -> None:
    losses = [None, math.inf, math.nan, 0.5, 0.25, -math.inf, 0.25, 0.75]
    async with units() as unit:
        for step, loss in enumerate(losses):
            await unit.jobs.add_checkpoint(UID, replace(_checkpoint(step), valid_loss=loss))
            found = (await unit.jobs.checkpoints(UID, 100, None)).items
            assert await unit.jobs.best_checkpoint(UID) == best_of(found)
        best = await unit.jobs.best_checkpoint(UID)
    assert best is not None
    assert best.step == 4


async def test_what_jobs_start_from_is_in_use_until_they_have_ended(units: UnitOfWorkFactory) -> None:
    key = "tenants/acme/jobs/uid-other/checkpoints/step-00000005-attempt-1"
    starting = samples.job(7, spec=samples.spec(initial_adapter="x", initial_key=key))
    async with units() as unit:
        await unit.jobs.add(starting)
        assert await unit.jobs.checkpoint_keys_in_use("acme") == {key}
        assert await unit.jobs.checkpoint_keys_in_use("other") == frozenset()
        await unit.jobs.save(starting.moved(JobState.CANCELLED, samples.NOW))
        assert await unit.jobs.checkpoint_keys_in_use("acme") == frozenset()
