"""What the scheduler reads and remembers: shares, reservations, the board, and facts of all jobs at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.queue_ports import JobHold, Reservation
from trellis.server.domain.board import Board, BoardLine
from trellis.server.domain.fair_share import FairShare
from trellis.server.domain.ledger import Meter
from trellis.server.domain.quota import Quota
from trellis.server.domain.tuning_job import (
    Checkpoint,
    EventLevel,
    JobEvent,
    JobState,
    QueueCode,
    QueueReason,
    StartInterval,
)
from trellis.server.store import tables

WAITS = QueueReason(QueueCode.CAPACITY, "It waits.")


@contextmanager
def statements_of(engine: AsyncEngine) -> Iterator[list[str]]:
    """What is sent to the database meanwhile."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def _add_tenants(units: UnitOfWorkFactory, **cohorts: str) -> None:
    async with units() as unit:
        for tenant, cohort in cohorts.items():
            await unit.tenants.add(replace(samples.tenant(tenant), cohort=cohort, quota=Quota(accelerators=2.0)))
        await unit.commit()


async def test_tenants_are_those_in_play_and_their_cohorts(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    await _add_tenants(units, runs="lab", beside="lab", rests="", waits="")
    async with units() as unit:
        await unit.jobs.add(samples.job(1, of="runs", state=JobState.RUNNING))
        await unit.jobs.add(samples.job(2, of="waits"))
        await unit.jobs.add(samples.job(3, of="rests", state=JobState.SUCCEEDED))
        await unit.commit()
    async with units(write=False) as unit:
        found = await unit.queue.tenants()
    assert sorted(tenant.tenant_id for tenant in found) == ["beside", "runs", "waits"]
    assert {tenant.quota.accelerators for tenant in found} == {2.0}


async def test_past_use_is_kept_by_tenant(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job())
    await _add_tenants(units, rests="")
    async with units() as unit:
        await unit.fair_shares.put([FairShare("acme", 1.5, samples.at(0)), FairShare("rests", 2.0, samples.at(0))])
        await unit.fair_shares.put([FairShare("acme", 2.5, samples.at(9))])
        await unit.fair_shares.put([])
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.fair_shares.of_waiting() == {"acme": FairShare("acme", 2.5, samples.at(9))}


async def test_reservations_come_and_go(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(1), samples.job(2))
    first, second = (Reservation(f"uid-acme-{number}", 2.0, 0.5, samples.at(number)) for number in (1, 2))
    async with units() as unit:
        await unit.reservations.put([first, second])
        await unit.reservations.put([replace(first, cpus=4.0)])
        await unit.reservations.delete([second.job_uid])
        await unit.reservations.delete([])
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.reservations.all() == {first.job_uid: replace(first, cpus=4.0)}


async def test_the_board_is_one_row(units: UnitOfWorkFactory) -> None:
    whole = [samples.at(seconds).replace(microsecond=0) for seconds in (60, 30, 120)]
    board = Board(
        samples.NOW,
        (BoardLine("a", QueueCode.CAPACITY, StartInterval(*whole)), BoardLine("b", QueueCode.BUDGET)),
    )
    async with units() as unit:
        assert await unit.board.get() is None
        await unit.board.put(Board(samples.at(-1)))
        await unit.board.put(board)
        await unit.commit()
    async with units(write=False) as unit:
        found = await unit.board.get()
    assert found == board
    assert found is not None
    assert (found.positions["b"], found.line_of("a"), found.line_of("c")) == (1, board.lines[0], None)


async def test_saved_times_are_of_the_present_attempt(units: UnitOfWorkFactory) -> None:
    runs = samples.job(1, state=JobState.RUNNING, attempt_count=2)
    await samples.seed(units, runs, samples.job(2, attempt_count=1))
    async with units() as unit:
        for step, attempt in ((10, 1), (20, 2), (30, 2)):
            await unit.jobs.add_checkpoint(runs.uid, Checkpoint(step, attempt, "k", 1, samples.at(step)))
        await unit.jobs.add_checkpoint("uid-acme-2", Checkpoint(5, 1, "k", 1, samples.NOW))
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.queue.saved_times() == {runs.uid: samples.at(30)}


async def test_holds_are_read_by_state(units: UnitOfWorkFactory, engine: AsyncEngine) -> None:
    await samples.seed(units, samples.job(1), samples.job(2, state=JobState.RUNNING))
    rows = [("uid-acme-1", 5), ("uid-acme-2", 7)]
    async with engine.begin() as connection:
        for uid, quantity in rows:
            values = {"job_uid": uid, "meter": Meter.TRAINED_TOKENS, "tenant": "acme", "quantity": quantity}
            await connection.execute(insert(tables.holds).values(values))
    async with units(write=False) as unit:
        assert await unit.queue.held([JobState.QUEUED]) == [JobHold("uid-acme-1", "acme", Meter.TRAINED_TOKENS, 5)]
        assert len(await unit.queue.held([JobState.QUEUED, JobState.RUNNING])) == 2


async def test_reasons_are_written_at_once_and_only_in_the_queue(units: UnitOfWorkFactory, engine: AsyncEngine) -> None:
    jobs = [samples.job(number) for number in range(1, 31)]
    await samples.seed(units, *jobs, samples.job(31, state=JobState.RUNNING))
    with statements_of(engine) as seen:
        async with units() as unit:
            told = JobEvent(samples.NOW, EventLevel.INFO, "It waits.")
            reasons = {job.uid: WAITS for job in [*jobs, samples.job(31)]}
            await unit.queue.save_reasons(reasons, {uid: told for uid in reasons if uid != "uid-acme-1"})
            await unit.commit()
    verbs = [statement.partition(" ")[0] for statement in seen]
    assert (verbs.count("SELECT"), verbs.count("UPDATE"), verbs.count("INSERT")) == (1, 2, 1)
    async with units(write=False) as unit:
        waiting = await unit.jobs.in_states([JobState.QUEUED], 100)
        other = await unit.jobs.get_by_uid("uid-acme-31")
        events = [await unit.jobs.events(f"uid-acme-{number}", 0, 10) for number in (1, 2, 31)]
    assert [job.queue_reason for job in waiting] == [WAITS] * 30
    assert [job.event_count for job in waiting] == [0] + [1] * 29
    assert events == [[], [replace(told, sequence=1)], []]
    assert other is not None
    assert other.queue_reason is None
