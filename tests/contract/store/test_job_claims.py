"""Claims on jobs: each job is held by one loop at a time, until the claim expires."""

import asyncio

import pytest
from tests.contract.store import samples

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.tuning_job import JobState

STATES = [JobState.STARTING, JobState.RUNNING]


async def test_claims_take_the_oldest_that_nobody_holds(units: UnitOfWorkFactory) -> None:
    states = [JobState.RUNNING, JobState.STARTING, JobState.QUEUED, JobState.RUNNING]
    await samples.seed(units, *(samples.job(n, state=state) for n, state in enumerate(states, 1)))
    async with units() as unit:
        first = await unit.jobs.claim(STATES, samples.claim("one"), samples.NOW, 2)
        assert [job.job_id for job in first] == ["job-1", "job-2"]
        second = await unit.jobs.claim(STATES, samples.claim("two"), samples.NOW, 2)
        assert [job.job_id for job in second] == ["job-4"]
        assert await unit.jobs.claim(STATES, samples.claim("three"), samples.NOW, 2) == []
        assert await unit.jobs.claim([], samples.claim("four"), samples.NOW, 2) == []


async def test_a_claim_is_held_until_let_go_or_expired(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(state=JobState.STARTING))
    uid = samples.job().uid
    one, two, three = samples.claim("one", 60), samples.claim("two", 120), samples.claim("three", 180)
    async with units() as unit:
        assert await unit.jobs.claim(STATES, one, samples.NOW, 5)
        assert await unit.jobs.holds(uid, one)
        assert not await unit.jobs.holds(uid, two)
        await unit.jobs.release(uid, two)
        assert not await unit.jobs.claim(STATES, two, samples.at(59.9), 5)
        assert await unit.jobs.claim(STATES, two, samples.at(60), 5)
        assert not await unit.jobs.holds(uid, one)
        await unit.jobs.release(uid, one)
        assert await unit.jobs.holds(uid, two)
        await unit.jobs.release(uid, two)
        assert not await unit.jobs.holds(uid, two)
        assert await unit.jobs.claim(STATES, three, samples.at(61), 5)


async def test_a_claimed_job_may_be_saved(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(state=JobState.STARTING))
    async with units() as unit:
        [job] = await unit.jobs.claim(STATES, samples.claim("one"), samples.NOW, 5)
        await unit.jobs.save(job.moved(JobState.RUNNING, samples.NOW))
        assert await unit.jobs.holds(job.uid, samples.claim("one"))


async def test_loops_that_claim_at_once_get_different_jobs(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    await samples.seed(units, *(samples.job(n, state=JobState.STARTING) for n in range(1, 13)))

    async def claim(factory: UnitOfWorkFactory, token: str) -> list[str]:
        async with factory() as unit:
            jobs = await unit.jobs.claim(STATES, samples.claim(token), samples.NOW, 3)
            await unit.commit()
            return [job.uid for job in jobs]

    claimed = await asyncio.gather(*(claim(factory, str(n)) for n, factory in enumerate([units, other_units] * 3)))
    taken = [uid for uids in claimed for uid in uids]
    assert len(taken) == len(set(taken))
    assert max(map(len, claimed)) <= 3
    async with units() as unit:  # what rivals stepped over is there for the next round
        rest = await unit.jobs.claim(STATES, samples.claim("rest"), samples.NOW, 20)
    assert len(taken) + len(rest) == 12


async def test_a_claim_does_not_wait_for_another(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory, database: str
) -> None:
    if database == "sqlite":
        pytest.skip("SQLite has one writer")
    await samples.seed(units, *(samples.job(n, state=JobState.STARTING) for n in range(1, 5)))
    async with units() as one, other_units() as two:
        first = await one.jobs.claim(STATES, samples.claim("one"), samples.NOW, 2)
        second = await two.jobs.claim(STATES, samples.claim("two"), samples.NOW, 4)
        await one.commit()
        await two.commit()
    assert [job.job_id for job in first] == ["job-1", "job-2"]
    assert [job.job_id for job in second] == ["job-3", "job-4"]


async def test_the_queue_is_held_by_one(units: UnitOfWorkFactory, other_units: UnitOfWorkFactory) -> None:
    inside = 0

    async def admit(factory: UnitOfWorkFactory) -> None:
        nonlocal inside
        async with factory() as unit:
            await unit.jobs.lock_queue()
            inside += 1
            assert inside == 1
            await unit.jobs.in_states([JobState.QUEUED], 1)
            inside -= 1
            await unit.commit()

    await asyncio.gather(*(admit(factory) for factory in [units, other_units] * 4))
