"""What a round of the scheduler costs, and that two servers' rounds together keep the limits."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.control.platform import Platform
from tests.contract.control.test_two_servers import patiently
from tests.contract.store import samples
from tests.contract.store.test_queue_facts import statements_of

from trellis.server.app.pages import PageQuery
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.tuning_jobs import get_tuning_job, list_tuning_jobs
from trellis.server.domain.board import Board
from trellis.server.domain.dataset import ReportState, VersionState
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.tuning_job import Estimate, JobState, TuningJob

ESTIMATE = Estimate(accelerators=1.0, seconds=600.0, accelerator_seconds=600.0, trained_tokens=1000)
JOBS_A_TENANT = 10
QUOTA = Quota(accelerators=2.0, budgets=(Budget(BudgetMeter.TOKENS, Period.DAY, hard_limit=10**9),))


async def add_tenants(units: UnitOfWorkFactory, *tenants: str, quota: Quota = QUOTA, cohort: str = "") -> None:
    """Tenants with a dataset each that was found valid."""
    async with units() as unit:
        for tenant in tenants:
            await unit.tenants.add(replace(samples.tenant(tenant), quota=quota, cohort=cohort))
            await unit.datasets.add(samples.dataset(of=tenant))
            await unit.datasets.add_version(replace(samples.version(), tenant=tenant, state=VersionState.READY))
            await unit.datasets.add_report(replace(samples.report(), tenant=tenant, state=ReportState.DONE, valid=True))
        await unit.commit()


def queued(number: int, of: str) -> TuningJob:
    return samples.alone(number, of, estimate=ESTIMATE, seconds=number)


async def board_of(units: UnitOfWorkFactory) -> Board | None:
    async with units(write=False) as unit:
        return await unit.board.get()


async def _statements_a_round(platform: Platform, engine: AsyncEngine, tenants: int) -> list[str]:
    names = [f"t{tenants}-{number}" for number in range(tenants)]
    await add_tenants(platform.units, *names)
    await platform.add_jobs(*(queued(number, name) for name in names for number in range(JOBS_A_TENANT)))
    server = platform.server()
    admit, board = server.admit, server.board
    for _ in range(3):
        platform.clock.pass_seconds(1)
        await admit.once()
        await board.once()
    with statements_of(engine) as seen:
        await admit.once()
        await board.once()
    return seen


async def test_a_round_asks_as_often_for_a_thousand_jobs_as_for_ten(
    units: UnitOfWorkFactory, engine: AsyncEngine, tmp_path: Path
) -> None:
    platform = Platform(units, tmp_path)
    await platform.prepare()
    few = await _statements_a_round(platform, engine, 1)
    many = await _statements_a_round(platform, engine, 100)
    assert [one.partition(" ")[0] for one in few] == [one.partition(" ")[0] for one in many]
    assert len(many) < 40
    assert not [statement for statement in many if statement.startswith(("UPDATE", "INSERT", "DELETE"))]


async def test_a_job_is_not_saved_when_only_its_place_moves(
    platform: Platform, engine: AsyncEngine, units: UnitOfWorkFactory
) -> None:
    await platform.add_jobs(*(samples.alone(number, estimate=ESTIMATE) for number in range(1, 7)))
    server = platform.server()
    admit, board = server.admit, server.board
    for _ in range(3):
        await admit.once()
        await board.once()
        platform.clock.pass_seconds(2)
    before = await board_of(units)
    assert before is not None
    assert [before.positions[f"uid-acme-{number}"] for number in (3, 6)] == [0, 3]
    await platform.cancel(3)
    with statements_of(engine) as seen:
        await admit.once()
        await board.once()
    assert not [statement for statement in seen if "UPDATE tuning_jobs" in statement]
    after = await board_of(units)
    assert after is not None
    assert after.positions == {f"uid-acme-{number}": number - 4 for number in (4, 5, 6)}


async def test_the_board_is_empty_when_nothing_waits(platform: Platform, units: UnitOfWorkFactory) -> None:
    await platform.add_jobs(*(samples.alone(number) for number in (1, 2, 3)))
    server = platform.server()
    admit, board = server.admit, server.board
    await admit.once()
    await board.once()
    found = await board_of(units)
    assert found is not None
    assert [line.uid for line in found.lines] == ["uid-acme-3"]
    await platform.cancel(3)
    platform.clock.pass_seconds(2)
    await admit.once()
    await board.once()
    assert await board_of(units) == Board(platform.clock.now())


async def test_a_job_that_is_read_shows_its_place_and_likely_start(platform: Platform, engine: AsyncEngine) -> None:
    await platform.add_jobs(*(samples.alone(number, estimate=ESTIMATE) for number in range(1, 5)))
    server = platform.server()
    admit, board = server.admit, server.board
    await admit.once()
    await board.once()
    name = "tenants/acme/tuningJobs/job-4"
    with statements_of(engine) as first:
        job = await get_tuning_job(platform.app, name)
    with statements_of(engine) as second:
        assert await get_tuning_job(platform.app, name) == job
    assert [len([one for one in seen if one.startswith("SELECT")]) for seen in (first, second)] == [2, 1]
    assert job.queue_reason is not None
    assert job.queue_reason.position == 1
    start, now = job.queue_reason.start, platform.clock.now()
    assert start is not None
    assert now < start.expected <= start.latest
    assert start.earliest <= start.expected <= now + timedelta(seconds=2 * ESTIMATE.seconds)
    listed = await list_tuning_jobs(platform.app, "tenants/acme", [], PageQuery())
    places = [one.queue_reason.position for one in listed.items if one.state is JobState.QUEUED and one.queue_reason]
    assert places == [1, 0]


async def test_fifty_jobs_at_a_limit_of_ten_start_ten(
    database: str, units: UnitOfWorkFactory, other_units: UnitOfWorkFactory, tmp_path: Path
) -> None:
    servers = 1 if database == "sqlite" else 2
    platform = Platform(units, tmp_path, capacity_cpus=100.0, tenant_running_limit=10)
    await platform.prepare()
    await platform.add_jobs(*(samples.alone(number) for number in range(1, 51)))
    steps = [platform.server(one).admit for one in (units, other_units)[:servers]]
    for _ in range(3):
        await asyncio.gather(*(patiently(step) for step in steps for _ in range(2)))
    async with units(write=False) as unit:
        counts = await unit.jobs.counts()
        attempts = await unit.jobs.open_attempts(100)
    assert (counts[JobState.STARTING], counts[JobState.QUEUED], len(attempts)) == (10, 40, 10)
