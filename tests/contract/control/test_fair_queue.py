"""Quotas, cohorts, priorities and past use at admission: from the decision to what becomes of the jobs."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.control.platform import Platform, Server
from tests.contract.control.shared import SharedTrainer, admitted
from tests.contract.control.test_rounds import ESTIMATE, add_tenants, queued
from tests.contract.store import samples
from tests.contract.store.test_queue_facts import statements_of

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.queue_ports import Reservation
from trellis.server.app.tuning_jobs import get_tuning_job
from trellis.server.domain.audit import AuditQuery
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.quota import UNLIMITED, Budget, BudgetMeter, Period, Quota
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import EndCause, JobState, QueueCode
from trellis.server.scheduler.snapshot import SchedulerOptions

SOON = SchedulerOptions(least_run_seconds=10.0, half_life_seconds=1000.0)
URGENT = Quota(max_priority=10)


@pytest.fixture
async def platform(units: UnitOfWorkFactory, tmp_path: Path) -> Platform:
    """Room for two jobs, which may be preempted after ten seconds."""
    made = Platform(units, tmp_path / "objects", scheduler=SOON, tenant_running_limit=10)
    await made.prepare()
    return made


async def run_all(platform: Platform, server: Server, *uids: str) -> None:
    """The jobs are admitted, and run for a while."""
    await server.admit.once()
    await server.launch.once()
    for uid in uids:
        await platform.begin(f"trellis-here-{uid}-1")
    platform.clock.pass_seconds(20)


async def states(platform: Platform, *uids: str) -> list[JobState]:
    return [(await platform.job(uid)).state for uid in uids]


async def reservations(units: UnitOfWorkFactory) -> Sequence[Reservation]:
    async with units(write=False) as unit:
        return list((await unit.reservations.all()).values())


async def test_what_a_victim_frees_is_kept_for_whom_it_left(platform: Platform, units: UnitOfWorkFactory) -> None:
    await add_tenants(units, "urgent", quota=URGENT)
    server, mine = platform.server(), ("uid-acme-1", "uid-acme-2")
    await platform.add_jobs(*(samples.alone(number, estimate=ESTIMATE) for number in (1, 2)))
    await run_all(platform, server, *mine)
    # Others of the tenant wait longer than the urgent job, and would take what becomes free.
    await platform.add_jobs(*(samples.alone(number, estimate=ESTIMATE) for number in (3, 4)))
    await platform.add_jobs(replace(queued(50, "urgent"), priority=5))
    await server.admit.once()
    [victim] = [uid for uid in mine if (await platform.job(uid)).state is JobState.PREEMPTING]
    job = await platform.job(victim)
    assert (job.preemption_count, job.stop_time) == (1, platform.clock.now())
    told = (await platform.events(victim))[-1]
    assert told.state is JobState.PREEMPTING
    async with units(write=False) as unit:
        [event] = (await unit.audit.list(AuditQuery("acme", resource=job.name), 9, None)).items
    assert (event.principal, event.method) == ("platform", "PreemptTuningJob")
    assert (event.before, event.after) == ({"state": "RUNNING"}, {"state": "PREEMPTING"})
    assert "asked to give back its capacity" in told.message
    assert "priority" in told.message
    assert [(one.job_uid, one.cpus, one.gpus) for one in await reservations(units)] == [("uid-urgent-50", 1.0, 0.0)]
    waiting = (await platform.job("uid-urgent-50")).queue_reason
    assert waiting is not None
    assert waiting.code is QueueCode.PREEMPTING
    platform.clock.pass_seconds(5)
    await server.admit.once()  # nothing further is asked to leave, and nobody takes what is reserved
    assert sorted(await states(platform, *mine)) == [JobState.PREEMPTING, JobState.RUNNING]
    await platform.fail(f"trellis-here-{victim}-1", EndCause.PREEMPTED)
    assert await states(platform, victim) == [JobState.QUEUED]
    assert [one.job_uid for one in await reservations(units)] == ["uid-urgent-50"]
    await server.admit.once()
    found = await states(platform, "uid-urgent-50", victim, "uid-acme-3", "uid-acme-4")
    assert found == [JobState.STARTING, *[JobState.QUEUED] * 3]
    assert await reservations(units) == []
    assert sorted(await states(platform, *mine)) == [JobState.QUEUED, JobState.RUNNING]


async def test_a_place_on_a_trainer_is_given_up_for_one_of_priority(units: UnitOfWorkFactory, tmp_path: Path) -> None:
    options = TrainerOptions(max_jobs=2)
    platform = Platform(units, tmp_path, scheduler=SOON, capacity_cpus=1.0, trainers=options)
    await platform.prepare()
    await add_tenants(units, "urgent", quota=URGENT)
    server = await admitted(platform, 1, 2)
    shared = SharedTrainer(platform, platform.cluster.started[0], max_jobs=2)
    await shared.start()
    await shared.work()
    platform.clock.pass_seconds(20)
    await platform.add_jobs(samples.job(3), samples.job(50, "urgent", priority=5))
    await server.admit.once()
    mine = ("uid-acme-1", "uid-acme-2")
    assert sorted(await states(platform, *mine)) == [JobState.PREEMPTING, JobState.RUNNING]
    [token] = [token for token, name in shared.jobs.items() if await _is(platform, name, JobState.PREEMPTING)]
    await shared.fail(token, EndCause.PREEMPTED)
    await shared.work()  # it says that there is room
    await server.admit.once()
    assert await states(platform, "uid-urgent-50", "uid-acme-3") == [JobState.STARTING, JobState.QUEUED]
    [attempt] = await platform.attempts("uid-urgent-50")
    assert (attempt.trainer_uid, attempt.accelerators) == ((await platform.trainers())[0].uid, 1.0)


async def _is(platform: Platform, name: str, state: JobState) -> bool:
    return (await get_tuning_job(platform.app, name)).state is state


async def test_a_reservation_ends_with_the_wait(platform: Platform, units: UnitOfWorkFactory) -> None:
    await add_tenants(units, "urgent", quota=URGENT)
    server = platform.server()
    await platform.add_jobs(*(samples.alone(number, estimate=ESTIMATE) for number in (1, 2)))
    await run_all(platform, server, "uid-acme-1", "uid-acme-2")
    await platform.add_jobs(replace(queued(50, "urgent"), priority=5))
    await server.admit.once()
    assert len(await reservations(units)) == 1
    async with units() as unit:
        job = await unit.jobs.get_by_uid("uid-urgent-50", for_update=True)
        assert job is not None
        await unit.jobs.save(job.moved(JobState.CANCELLED, platform.clock.now()))
        await unit.commit()
    await server.admit.once()
    assert await reservations(units) == []


async def test_what_was_lent_is_taken_back(platform: Platform, units: UnitOfWorkFactory) -> None:
    await add_tenants(units, "lender", "borrower", quota=Quota(accelerators=1.0), cohort="lab")
    server, borrowed = platform.server(), ("uid-borrower-1", "uid-borrower-2")
    await platform.add_jobs(queued(1, "borrower"), queued(2, "borrower"), queued(3, "borrower"))
    await run_all(platform, server, *borrowed)
    assert await states(platform, *borrowed, "uid-borrower-3") == [*[JobState.RUNNING] * 2, JobState.QUEUED]
    await platform.add_jobs(queued(9, "lender"))
    await server.admit.once()
    assert sorted(await states(platform, *borrowed)) == [JobState.PREEMPTING, JobState.RUNNING]
    [victim] = [uid for uid in borrowed if (await platform.job(uid)).state is JobState.PREEMPTING]
    await platform.fail(f"trellis-here-{victim}-1", EndCause.PREEMPTED)
    await server.admit.once()
    assert await states(platform, "uid-lender-9") == [JobState.STARTING]
    assert (await platform.attempts("uid-lender-9"))[0].accelerators == 1.0


async def test_a_tenant_never_has_more_than_its_quota(platform: Platform, units: UnitOfWorkFactory) -> None:
    await add_tenants(units, "small", quota=Quota(accelerators=1.0))
    await platform.add_jobs(queued(1, "small"), queued(2, "small"))
    await platform.server().admit.once()
    assert await states(platform, "uid-small-1", "uid-small-2") == [JobState.STARTING, JobState.QUEUED]
    reason = (await platform.job("uid-small-2")).queue_reason
    assert reason is not None
    assert reason.code is QueueCode.QUOTA


async def test_a_budget_counts_what_is_settled_and_held(platform: Platform, units: UnitOfWorkFactory) -> None:
    """Of 100 tokens 30 are settled, and 40 held for the first job; the second one, which needs 40, waits."""
    budget = Budget(BudgetMeter.TOKENS, Period.DAY, hard_limit=100)
    await add_tenants(units, "thrifty", quota=Quota(budgets=(budget,)))
    await platform.add_jobs(queued(1, "thrifty"), queued(2, "thrifty"))
    now = platform.clock.now()
    async with units() as unit:
        entries = [LedgerEntry("thrifty", "a", EntryKind.SETTLE, Meter.PROMPT_TOKENS, 30, now)]
        for number in (1, 2):
            uid = f"uid-thrifty-{number}"
            entries.append(LedgerEntry("thrifty", f"h{uid}", EntryKind.HOLD, Meter.TRAINED_TOKENS, 40, now, uid))
        await unit.ledger.append(entries)
        await unit.commit()
    server = platform.server()
    await server.admit.once()
    assert await states(platform, "uid-thrifty-1", "uid-thrifty-2") == [JobState.STARTING, JobState.QUEUED]
    reason = (await platform.job("uid-thrifty-2")).queue_reason
    assert reason is not None
    assert reason.code is QueueCode.BUDGET
    platform.clock.pass_seconds(24 * 3600)
    await server.admit.once()
    assert await states(platform, "uid-thrifty-2") == [JobState.STARTING]


async def test_past_use_grows_while_jobs_run_and_fades(
    units: UnitOfWorkFactory, engine: AsyncEngine, tmp_path: Path
) -> None:
    """The whole platform for one half-life of 1000 s counts 1000/ln 2 · ½ = 721.35; a half-life later half."""
    platform = Platform(units, tmp_path, scheduler=SOON, capacity_cpus=1.0)
    await platform.prepare()
    await add_tenants(units, "heavy", quota=UNLIMITED)
    server = platform.server()
    await platform.add_jobs(queued(1, "heavy"))
    await run_all(platform, server, "uid-heavy-1")
    for _ in range(49):
        platform.clock.pass_seconds(20)
        await server.admit.once()
    with statements_of(engine) as seen:
        await server.admit.once()
    assert not [statement for statement in seen if "fair_shares" in statement]  # nothing waits, and it was just written
    async with units(write=False) as unit:
        share = (await unit.fair_shares.of_waiting())["heavy"]
    assert share.time == platform.clock.now() == samples.NOW + timedelta(seconds=1000)
    assert share.past_use == pytest.approx(721.35, abs=0.01)
    await platform.complete("trellis-here-uid-heavy-1-1")
    platform.clock.pass_seconds(1000)
    await platform.add_jobs(queued(2, "heavy"), samples.alone(11, estimate=ESTIMATE))
    await server.admit.once()
    # The heavy tenant's job is older, but the other one has had nothing yet.
    assert await states(platform, "uid-acme-11", "uid-heavy-2") == [JobState.STARTING, JobState.QUEUED]
    async with units(write=False) as unit:
        shares = await unit.fair_shares.of_waiting()
    assert shares["heavy"] == share  # what fades is reckoned when it is asked for
