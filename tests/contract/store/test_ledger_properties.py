"""Whatever happens to jobs, the ledger adds up: held is never negative and ends at nothing, what was measured is what was
settled, sums are what the entries say, and no order of admissions and extensions passes a budget.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings, strategies as st
from tests.contract.store import samples

from trellis.server.app.attempt_usage import measured
from trellis.server.app.budgets import budget_states
from trellis.server.app.holds import extend, hold, release, settle
from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.derived import derive
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.prices import Prices
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.running_hold import Patience, RunningHold, judged
from trellis.server.domain.statement import StatementSum
from trellis.server.domain.tuning_job import Attempt, Estimate, JobState, TuningJob
from trellis.server.store.engine import create_engine_for
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

T = TypeVar("T")
MS, TOKENS = Meter.ACCELERATOR_MILLISECONDS, Meter.TRAINED_TOKENS
PRICES = Prices("EUR", {MS: 1_800_000_001, TOKENS: 7})
HARD = 100
"""Accelerator-seconds a day."""
QUOTA = Quota(budgets=(Budget(BudgetMeter.ACCELERATOR_SECONDS, Period.DAY, hard_limit=HARD),))
PATIENCE = Patience(leave=20.0, fence=10.0)
LOOK = 5.0
CRASHES = 0.2


class CrashError(Exception):
    """The server dies before it commits."""


class Ledgers:
    """Jobs of one tenant with a hard budget, on servers that may die before each commit.

    Each deed takes a number that decides about its details.
    """

    def __init__(self, template: Path) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="trellis-ledger-"))
        shutil.copy(template, self.folder / "trellis.db")
        self.engine = create_engine_for(f"sqlite+aiosqlite:///{self.folder / 'trellis.db'}")
        self.units = SqlUnitOfWorkFactory(self.engine)
        self.now = samples.NOW
        self.jobs: dict[str, TuningJob] = {}
        self.measured: Counter[Meter] = Counter()

    def close(self) -> None:
        self.runner.run(self.engine.dispose())
        self.runner.close()
        shutil.rmtree(self.folder)

    def run(self, script: list[tuple[str, int]]) -> None:
        self.do(samples.seed(self.units))
        for deed, number in script:
            getattr(self, deed)(Random(number))
            self.do(self._check())
        self.do(self._end_all())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def pass_time(self, random: Random) -> None:
        self.now += timedelta(seconds=random.choice([1, 60, 3600, 86400]))

    def submit(self, random: Random) -> None:
        if len(self._in(JobState.QUEUED)) > 3:
            return
        estimate = random.choice([None, _estimate(random), _estimate(random)])
        job = samples.job(len(self.jobs) + 1, estimate=estimate, create_time=self.now)

        async def work(unit: UnitOfWork) -> None:
            await unit.jobs.add(job)
            await hold(unit, job, self.now)

        if self.do(self._committed(work, random)):
            self.jobs[job.uid] = job

    def learn_more(self, random: Random) -> None:
        """A job's estimate changes while it waits."""
        for job in self._in(JobState.QUEUED):
            changed = replace(job, estimate=_estimate(random))
            self.do(self._apply(changed, hold))

    def admit(self, random: Random) -> None:
        """As the scheduler does: only what the budget has room for."""
        for job in self._in(JobState.QUEUED):
            number = job.attempt_count + 1
            started = replace(job.moved(JobState.STARTING, self.now), attempt_count=number)
            running = started.moved(JobState.RUNNING, self.now)
            attempt = samples.attempt(job.uid, number, accelerators=1.0, create_time=self.now, start_time=self.now)
            if self.do(self._committed(self._admit, random, running, attempt)):
                with_attempt = self.do(self._attempt(running))
                self.jobs[job.uid] = running if with_attempt else job

    def train(self, random: Random) -> None:
        """Some time of training in which each job is looked at again and again: what is not covered is not trained."""
        for _ in range(random.randint(1, 8)):
            self.now += timedelta(seconds=LOOK)
            for job in self._in(JobState.RUNNING):
                self.do(self._train(job, random.uniform(0, LOOK), random.randint(0, 50)))

    def end_attempt(self, random: Random) -> None:
        """In whatever way; the server may die, and the settlement may be written twice."""
        for job in self._in(JobState.RUNNING)[:2]:
            state = random.choice([JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED])
            self._end(job, job.moved(state, self.now), random)

    def cancel(self, random: Random) -> None:
        for job in self._in(JobState.QUEUED)[: random.randint(0, 1)]:
            ended = job.moved(JobState.CANCELLED, self.now)
            self.do(self._apply(ended, release))

    def call_models(self, random: Random) -> None:
        """The same calls are written by two servers at once, in another order."""
        quantity = random.randint(1, 100)
        entries = [
            LedgerEntry("acme", f"call-{key}", EntryKind.SETTLE, Meter.PROMPT_TOKENS, quantity, self.now)
            for key in random.choices(range(9), k=5)
        ]
        written = self.do(self._at_once(entries, entries[::-1]))
        self.measured[Meter.PROMPT_TOKENS] += quantity * written

    def _in(self, state: JobState) -> list[TuningJob]:
        return [job for job in self.jobs.values() if job.state is state]

    async def _left(self, unit: UnitOfWork) -> int:
        [state] = (await budget_states(unit, {"acme": QUOTA}, self.now))["acme"]
        assert state.left is not None
        return state.left

    async def _committed(self, work: Any, random: Random, *arguments: Any) -> bool:
        """Whether the server lived long enough."""
        try:
            async with self.units() as unit:
                await work(unit, *arguments)
                if random.random() < CRASHES:
                    raise CrashError
                await unit.commit()
        except CrashError:
            return False
        return True

    async def _apply(self, job: TuningJob, work: Any) -> None:
        async with self.units() as unit:
            await unit.jobs.get_by_uid(job.uid, for_update=True)
            await work(unit, job, self.now)
            await unit.jobs.save(job)
            await unit.commit()
        self.jobs[job.uid] = job

    async def _admit(self, unit: UnitOfWork, running: TuningJob, attempt: Attempt) -> None:
        await unit.jobs.get_by_uid(running.uid, for_update=True)
        held = await unit.ledger.held(running.uid)
        if await self._left(unit) >= held.get(MS, 0):
            await unit.jobs.add_attempt(attempt)
            await unit.jobs.save(running)

    async def _attempt(self, job: TuningJob) -> Attempt | None:
        async with self.units(write=False) as unit:
            return await unit.jobs.get_attempt(job.uid, job.attempt_count)

    async def _at_once(self, *batches: list[LedgerEntry]) -> int:
        async def write(entries: list[LedgerEntry]) -> int:
            async with self.units() as unit:
                written = await unit.ledger.append(entries)
                await unit.commit()
            return len(written)

        return sum(await asyncio.gather(*map(write, batches)))

    async def _train(self, job: TuningJob, seconds: float, tokens: int) -> None:
        async with self.units() as unit:
            attempt = await unit.jobs.get_attempt(job.uid, job.attempt_count)
            assert attempt is not None
            held = await unit.ledger.held(job.uid)
            used = attempt.used_seconds + seconds
            if used * 1000 > held.get(MS, 0):
                used = attempt.used_seconds  # it was ended before
            attempt = replace(attempt, used_seconds=used, used_tokens=attempt.used_tokens + tokens)
            await unit.jobs.save_attempt(attempt)
            one = RunningHold(held.get(MS, 0), used * 1000, 1000.0, 0)
            verdict = judged(one, await self._left(unit), PATIENCE)
            await extend(unit, job, held, {MS: verdict.more}, self.now)
            await unit.commit()

    def _end(self, job: TuningJob, moved: TuningJob, random: Random) -> None:
        attempt = self.do(self._attempt(job))
        assert attempt is not None

        async def work(unit: UnitOfWork) -> None:
            await unit.jobs.get_by_uid(job.uid, for_update=True)
            for _ in range(random.randint(1, 2)):  # the same settlement twice is one
                await settle(unit, job, attempt, self.now, PRICES)
            await (release if moved.ended else hold)(unit, moved, self.now)
            await unit.jobs.save_attempt(replace(attempt, end_time=self.now))
            await unit.jobs.save(moved)

        if self.do(self._committed(work, random)):
            self.jobs[job.uid] = moved
            self.measured.update(measured(attempt))

    async def _check(self) -> None:
        async with self.units(write=False) as unit:
            entries = await _all(unit)
            kept = await unit.ledger.derived("acme")
            left = await self._left(unit)
        fresh = derive(entries)
        assert kept == fresh, "what is derived is not what the entries say"
        assert all(quantity > 0 for quantity in fresh.holds.values())
        ended = {uid for uid, job in self.jobs.items() if job.ended}
        assert not ended & {uid for uid, _, _ in fresh.holds}, "an ended job holds something"
        settled: Counter[Meter] = Counter()
        held: Counter[tuple[str, Meter]] = Counter()
        for entry in entries:
            if entry.job_uid:
                held[entry.job_uid, entry.meter] += entry.quantity * (1 if entry.kind is EntryKind.HOLD else -1)
                assert held[entry.job_uid, entry.meter] >= 0, "more was settled than was held by then"
            if entry.kind is EntryKind.SETTLE:
                settled[entry.meter] += entry.quantity
        assert settled == self.measured, "what was measured is not what was settled"
        assert left >= 0, "the budget was passed"

    async def _end_all(self) -> None:
        for job in [*self._in(JobState.RUNNING), *self._in(JobState.QUEUED)]:
            await self._apply(job.moved(JobState.FAILED, self.now), release)
        async with self.units(write=False) as unit:
            kept = await unit.ledger.derived("acme")
            entries = await _all(unit)
        assert not kept.holds, "something is held for nobody"
        assert _statement(entries, len(entries) or 1) == _statement(entries, 3) == _statement(entries, 1)


async def _all(unit: UnitOfWork) -> list[LedgerEntry]:
    return list((await unit.ledger.entries(LedgerRange("acme"), 10_000, None)).items)


def _estimate(random: Random) -> Estimate:
    seconds = round(random.uniform(0.001, 80), 4)
    return Estimate(1.0, seconds, seconds, random.randint(0, 1000))


def _statement(entries: list[LedgerEntry], piece: int) -> Any:
    total = StatementSum()
    for start in range(0, len(entries), piece):
        total.add(entries[start : start + piece])
    begin = datetime.min.replace(tzinfo=samples.NOW.tzinfo)
    return total.statement("acme", begin, samples.NOW, sums_agree=True)


DEEDS = ("submit", "learn_more", "admit", "train", "end_attempt", "cancel", "call_models", "pass_time")
WEIGHTED = [*DEEDS, "submit", "admit", "admit", "train", "train"]


@settings(max_examples=10, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(WEIGHTED), st.integers(0, 2**31)), min_size=25, max_size=40))
def test_whatever_happens_the_ledger_adds_up(sqlite_template: Path, script: list[tuple[str, int]]) -> None:
    ledgers = Ledgers(sqlite_template)
    try:
        ledgers.run(script)
    finally:
        ledgers.close()
