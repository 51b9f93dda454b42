"""Jobs and their tenant's budget: held, extended, given way, and never passed; and what the loops meter."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.contract.control.platform import SETTINGS, UID, Platform, Server
from tests.contract.store import samples

from trellis.server.app.attempt_usage import AttemptUsage
from trellis.server.app.budgets import budget_states
from trellis.server.app.holds import hold
from trellis.server.app.ledger_reading import LedgerRange, Sums
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.progress import AttemptReport, report_attempt
from trellis.server.control.attempts import submission_id_for
from trellis.server.control.extend import LOOK_SECONDS, ExtendHolds
from trellis.server.control.loop import Step
from trellis.server.control.storage import MeterStorage
from trellis.server.domain.audit import AuditQuery
from trellis.server.domain.derived import derive, hour_of
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.tuning_job import EndCause, Estimate, JobState, Progress, QueueCode, TuningJob

MS = Meter.ACCELERATOR_MILLISECONDS
RUN = submission_id_for("here", UID, 1)
LEAVE = SETTINGS.graces.leave.total_seconds()


def estimate(seconds: float) -> Estimate:
    return Estimate(1.0, seconds, seconds, 0)


class Site:
    """A tenant with a budget of accelerator-seconds a day, and a job that runs alone on one."""

    def __init__(self, platform: Platform, hard: int, seconds: float) -> None:
        self.platform = platform
        self.hard = hard
        self.seconds = seconds
        self.reports = 0
        self.used = 0.0

    async def begin(self) -> Server:
        budget = Budget(BudgetMeter.ACCELERATOR_SECONDS, Period.DAY, hard_limit=self.hard)
        async with self.platform.units() as unit:
            await unit.tenants.save(replace(samples.tenant(), quota=Quota(budgets=(budget,))))
            job = samples.alone(estimate=estimate(self.seconds))
            await unit.jobs.add(job)
            await hold(unit, job, self.platform.clock.now())
            await unit.commit()
        server = self.platform.server()
        await server.round()
        await self.platform.begin(RUN)
        self.loop = ExtendHolds(self.platform.control())
        return server

    async def train(self, seconds: float, run: str = RUN, *, step: int = 0) -> None:
        """The process works for so long, reports every few seconds, and each look is made."""
        for _ in range(round(seconds / LOOK_SECONDS)):
            self.platform.clock.pass_seconds(LOOK_SECONDS)
            self.used += LOOK_SECONDS
            self.reports += 1
            progress = Progress(step, 100, "training") if step else None
            report = AttemptReport(self.reports, progress, usage=AttemptUsage(0, self.used))
            await report_attempt(self.platform.app, await self.platform.caller(run), report)
            await self.loop.once()
            await self.check()

    async def check(self) -> None:
        """The budget is kept, and what is derived is what the entries say."""
        async with self.platform.units(write=False) as unit:
            tenant = await unit.tenants.get("acme")
            assert tenant is not None
            [state] = (await budget_states(unit, {"acme": tenant.quota}, self.platform.clock.now()))["acme"]
            entries = (await unit.ledger.entries(LedgerRange("acme"), 1000, None)).items
            assert await unit.ledger.derived("acme") == derive(entries)
        assert state.left is not None
        assert state.left >= 0, "the budget is passed"

    async def held(self) -> Sums:
        async with self.platform.units(write=False) as unit:
            return await unit.ledger.held(UID)

    async def settled(self) -> int:
        async with self.platform.units(write=False) as unit:
            entries = (await unit.ledger.entries(LedgerRange("acme"), 1000, None)).items
        return sum(entry.quantity for entry in entries if entry.kind is EntryKind.SETTLE)

    async def job(self) -> TuningJob:
        return await self.platform.job()


async def test_a_job_that_takes_longer_than_estimated_holds_more_before_it_is_used(platform: Platform) -> None:
    site = Site(platform, hard=10_000, seconds=200)
    await site.begin()
    await site.train(100)
    assert await site.held() == {MS: 200_000}, "as long as the estimate may be right, nothing is held beside it"
    await site.train(200)
    assert (await site.held())[MS] >= 300_000 + LEAVE * 1000, "it may still leave within what is held"
    await platform.fail(RUN, EndCause.USER)
    assert await site.held() == {}
    assert await site.settled() == 300_000


async def test_a_job_of_which_more_is_needed_than_the_budget_has_gives_way(platform: Platform) -> None:
    site = Site(platform, hard=300, seconds=200)
    server = await site.begin()
    await site.train(150, step=10)  # ten of a hundred steps: it would take 1500 s
    await site.train(85, step=15)
    job = await site.job()
    assert job.state is JobState.PREEMPTING
    async with platform.units(write=False) as unit:
        [event] = (await unit.audit.list(AuditQuery("acme", method="EnforceBudget"), 9, None)).items
    assert (event.principal, event.resource, event.after) == ("platform", job.name, {"state": "PREEMPTING"})
    said = (await platform.events())[-1].message
    assert "no more until 2026-03-02 00:00 UTC" in said
    assert "300 a day" in said
    await platform.fail(RUN, EndCause.PREEMPTED)
    assert (await site.job()).state is JobState.QUEUED
    assert (await site.job()).preemption_count == 0, "it gave way to nobody"
    await site.check()
    await server.round()
    waiting = (await site.job()).queue_reason
    assert waiting is not None
    assert waiting.code is QueueCode.BUDGET
    platform.clock.pass_seconds(24 * 3600)
    await server.round()
    assert (await site.job()).state is JobState.STARTING, "the next day has a budget of its own"
    assert await site.settled() == 235_000


async def test_a_process_that_does_not_leave_is_ended_before_it_uses_more_than_is_held(platform: Platform) -> None:
    site = Site(platform, hard=300, seconds=200)
    await site.begin()
    await site.train(235, step=10)
    assert (await site.job()).state is JobState.PREEMPTING
    await site.train(55, step=10)
    job = await site.job()
    assert job.state is JobState.QUEUED
    assert await site.settled() <= 300_000
    assert await site.settled() == round(site.used * 1000), "all that it said that it used is paid for"


async def test_a_job_that_will_end_within_what_is_held_is_let_be(platform: Platform) -> None:
    site = Site(platform, hard=60, seconds=60)
    await site.begin()
    await site.train(50, step=90)
    assert (await site.job()).state is JobState.RUNNING
    assert (await site.held())[MS] == 60_000


async def test_many_jobs_and_two_servers_never_hold_more_than_there_is(
    platform: Platform, other_units: UnitOfWorkFactory
) -> None:
    budget = Budget(BudgetMeter.ACCELERATOR_SECONDS, Period.DAY, hard_limit=500)
    platform.settings = replace(platform.settings, capacity_cpus=20.0, tenant_running_limit=20)
    now = platform.clock.now()
    async with platform.units() as unit:
        await unit.tenants.save(replace(samples.tenant(), quota=Quota(budgets=(budget,))))
        for number in range(1, 7):
            job = samples.alone(number, estimate=estimate(90))
            await unit.jobs.add(job)
            await hold(unit, job, now)
        await unit.commit()
    servers = [platform.server(), platform.server(other_units)]
    await asyncio.gather(*(server.admit.once() for server in servers))
    running = [
        number for number in range(1, 7) if (await platform.job(f"uid-acme-{number}")).state is JobState.STARTING
    ]
    assert len(running) == 5, "so many times 90 s are within 500 s"
    await servers[0].launch.once()
    for number in running:
        await platform.begin(submission_id_for("here", f"uid-acme-{number}", 1))
    steps: list[Step] = [ExtendHolds(platform.control(units)) for units in (platform.units, other_units)]
    steps += [server.admit for server in servers]
    for seconds in range(5, 45, 5):
        platform.clock.pass_seconds(5)
        for number in running:
            run = submission_id_for("here", f"uid-acme-{number}", 1)
            if (await platform.job(f"uid-acme-{number}")).state is JobState.RUNNING:
                progress = Progress(seconds, 1000, "training")  # each would take 1000 s
                report = AttemptReport(seconds // 5, progress, usage=AttemptUsage(0, float(seconds)))
                await report_attempt(platform.app, await platform.caller(run), report)
        await asyncio.gather(*(step.once() for step in steps))
        async with platform.units(write=False) as unit:
            [state] = (await budget_states(unit, {"acme": Quota(budgets=(budget,))}, now))["acme"]
            entries = (await unit.ledger.entries(LedgerRange("acme"), 1000, None)).items
            assert await unit.ledger.derived("acme") == derive(entries)
        assert state.left is not None
        assert state.left >= 0, "the budget is passed"
    states = [(await platform.job(f"uid-acme-{number}")).state for number in running]
    assert JobState.PREEMPTING in states


async def test_storage_is_settled_once_an_hour_by_whichever_server(platform: Platform) -> None:
    platform.clock.pass_seconds(3600)
    one, other = MeterStorage(platform.control()), MeterStorage(platform.control())
    for loop in (one, other, one):
        await loop.once()
    async with platform.units(write=False) as unit:
        [first] = (await unit.ledger.entries(LedgerRange(), 10, None)).items
    assert (first.meter, first.quantity, first.time) == (Meter.DATASET_BYTE_HOURS, 5 * 2**30, platform.clock.now())
    platform.clock.pass_seconds(5 * 3600)  # no server is there
    async with platform.units() as unit:
        await unit.adapters.add(samples.adapter(create_time=platform.clock.now() - timedelta(hours=2)))
        await unit.commit()
    await MeterStorage(platform.control()).once()
    async with platform.units(write=False) as unit:
        entries = (await unit.ledger.entries(LedgerRange(), 100, None)).items
        assert await unit.ledger.metered_until() == hour_of(platform.clock.now()) - timedelta(hours=1)
    by_meter = {meter: [entry for entry in entries if entry.meter is meter] for meter in Meter}
    assert len(by_meter[Meter.DATASET_BYTE_HOURS]) == 6
    assert [entry.quantity for entry in by_meter[Meter.ARTIFACT_BYTE_HOURS]] == [1024] * 2


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_budget_of_tokens_counts_what_models_read_and_wrote_too(platform: Platform) -> None:
    budgets = (
        Budget(BudgetMeter.TOKENS, Period.DAY, hard_limit=100, soft_limit=30),
        Budget(BudgetMeter.TOKENS, Period.MONTH, hard_limit=1000),
    )
    now = platform.clock.now()
    entries = [
        LedgerEntry("acme", meter.value, EntryKind.SETTLE, meter, 10, now)
        for meter in (Meter.TRAINED_TOKENS, Meter.PROMPT_TOKENS, Meter.COMPLETION_TOKENS)
    ]
    async with platform.units() as unit:
        await unit.ledger.append([*entries, replace(entries[0], key="old", time=now - timedelta(days=0, hours=13))])
        day, month = (await budget_states(unit, {"acme": Quota(budgets=budgets), "x": Quota()}, now))["acme"]
    assert (day.settled, day.left, day.is_over_soft) == (30, 70, True)
    assert (month.settled, month.left, month.is_over_soft) == (30, 970, False), "February is over"
