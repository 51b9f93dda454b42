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
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
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
HARD = 400
"""Accelerator-seconds a day."""
QUOTA = Quota(budgets=(Budget(BudgetMeter.ACCELERATOR_SECONDS, Period.DAY, hard_limit=HARD),))
PATIENCE = Patience(leave=20.0, fence=10.0)
LOOK = 5.0
SECONDS = st.floats(0.001, 120).map(lambda seconds: round(seconds, 4))


class CrashError(Exception):
    """The server dies before it commits."""


class Ledgers(RuleBasedStateMachine):
    """Jobs of one tenant with a hard budget, on two servers, which may die before each commit."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="trellis-ledger-"))
        shutil.copy(self.template, self.folder / "trellis.db")
        self.engine = create_engine_for(f"sqlite+aiosqlite:///{self.folder / 'trellis.db'}")
        self.units = SqlUnitOfWorkFactory(self.engine)
        self.now = samples.NOW
        self.jobs: dict[str, TuningJob] = {}
        self.measured: Counter[Meter] = Counter()

    def teardown(self) -> None:
        try:
            self.do(self._end_all())
        finally:
            self.runner.run(self.engine.dispose())
            self.runner.close()
            shutil.rmtree(self.folder)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.do(samples.seed(self.units))

    @rule(seconds=st.sampled_from([1, 5, 60, 3600, 86400]))
    def pass_time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(seconds=st.none() | SECONDS, tokens=st.integers(0, 1000), crash=st.booleans())
    def submit(self, seconds: float | None, tokens: int, crash: bool) -> None:
        number = len(self.jobs) + 1
        estimate = None if seconds is None else Estimate(1.0, seconds, seconds, tokens)
        job = samples.job(number, estimate=estimate, create_time=self.now)

        async def work(unit: UnitOfWork) -> None:
            await unit.jobs.add(job)
            await hold(unit, job, self.now)

        if self.do(self._committed(work, crash)):
            self.jobs[job.uid] = job

    @precondition(lambda self: self._in(JobState.QUEUED))
    @rule(data=st.data(), seconds=SECONDS)
    def learn_more(self, data: st.DataObject, seconds: float) -> None:
        """Its estimate changes while it waits."""
        job = self._draw(data, JobState.QUEUED)
        changed = replace(job, estimate=Estimate(1.0, seconds, seconds, 10))
        self.do(self._apply(changed, lambda unit: hold(unit, changed, self.now)))

    @precondition(lambda self: self._in(JobState.QUEUED))
    @rule(data=st.data(), crash=st.booleans())
    def admit(self, data: st.DataObject, crash: bool) -> None:
        """As the scheduler does: only what the budget has room for."""
        job = self._draw(data, JobState.QUEUED)
        number = job.attempt_count + 1
        started = replace(job.moved(JobState.STARTING, self.now), attempt_count=number)
        running = replace(started.moved(JobState.RUNNING, self.now))
        attempt = samples.attempt(job.uid, number, accelerators=1.0, create_time=self.now, start_time=self.now)

        async def work(unit: UnitOfWork) -> None:
            await unit.jobs.get_by_uid(job.uid, for_update=True)
            held = await unit.ledger.held(job.uid)
            if await self._left(unit) >= held.get(MS, 0):
                await unit.jobs.add_attempt(attempt)
                await unit.jobs.save(running)
                fits.append(True)

        fits: list[bool] = []
        if self.do(self._committed(work, crash)) and fits:
            self.jobs[job.uid] = running

    @precondition(lambda self: self._in(JobState.RUNNING))
    @rule(data=st.data(), share=st.floats(0.0, 1.0), tokens=st.integers(0, 50))
    def train(self, data: st.DataObject, share: float, tokens: int) -> None:
        """A look's time of training, and the look that follows: what is not covered is not trained."""
        job = self._draw(data, JobState.RUNNING)
        self.now += timedelta(seconds=LOOK)
        self.do(self._train(job, share * LOOK, tokens))

    @precondition(lambda self: self._in(JobState.RUNNING))
    @rule(data=st.data(), goes_on=st.booleans(), crash=st.booleans(), again=st.booleans())
    def end_attempt(self, data: st.DataObject, goes_on: bool, crash: bool, again: bool) -> None:
        job = self._draw(data, JobState.RUNNING)
        self._end(job, JobState.QUEUED if goes_on else JobState.SUCCEEDED, crash=crash, again=again)

    @precondition(lambda self: self._in(JobState.QUEUED))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = self._draw(data, JobState.QUEUED)
        ended = job.moved(JobState.CANCELLED, self.now)
        self.do(self._apply(ended, lambda unit: release(unit, ended, self.now)))

    @rule(keys=st.lists(st.integers(0, 8), min_size=1, max_size=6), quantity=st.integers(1, 100))
    def call_models_on_two_servers(self, keys: list[int], quantity: int) -> None:
        """The same calls are written by two at once, in another order."""
        entries = [
            LedgerEntry("acme", f"call-{key}", EntryKind.SETTLE, Meter.PROMPT_TOKENS, quantity, self.now)
            for key in keys
        ]
        written = self.do(self._at_once(entries, entries[::-1]))
        self.measured[Meter.PROMPT_TOKENS] += quantity * written

    @invariant()
    def it_adds_up(self) -> None:
        if hasattr(self, "engine"):
            self.do(self._check())

    def _in(self, state: JobState) -> list[TuningJob]:
        return [job for job in self.jobs.values() if job.state is state]

    def _draw(self, data: st.DataObject, state: JobState) -> TuningJob:
        return data.draw(st.sampled_from(self._in(state)))

    async def _left(self, unit: UnitOfWork) -> int:
        [state] = (await budget_states(unit, {"acme": QUOTA}, self.now))["acme"]
        assert state.left is not None
        return state.left

    async def _committed(self, work: Any, crash: bool) -> bool:
        try:
            async with self.units() as unit:
                await work(unit)
                if crash:
                    raise CrashError
                await unit.commit()
        except CrashError:
            return False
        return True

    async def _apply(self, job: TuningJob, work: Any) -> None:
        async with self.units() as unit:
            await unit.jobs.get_by_uid(job.uid, for_update=True)
            await work(unit)
            await unit.jobs.save(job)
            await unit.commit()
        self.jobs[job.uid] = job

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

    def _end(self, job: TuningJob, state: JobState, *, crash: bool = False, again: bool = False) -> None:
        now = self.now
        moved = job.moved(state, now)
        seen: list[Attempt] = []

        async def work(unit: UnitOfWork) -> None:
            await unit.jobs.get_by_uid(job.uid, for_update=True)
            attempt = await unit.jobs.get_attempt(job.uid, job.attempt_count)
            assert attempt is not None
            for _ in range(2 if again else 1):  # the same settlement twice is one
                await settle(unit, job, attempt, now, PRICES)
            await (release if moved.ended else hold)(unit, moved, now)
            await unit.jobs.save_attempt(replace(attempt, end_time=now))
            await unit.jobs.save(moved)
            seen.append(attempt)

        if self.do(self._committed(work, crash)):
            self.jobs[job.uid] = moved
            self.measured.update(measured(seen[0]))

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
        for entry in entries:
            if entry.kind is EntryKind.SETTLE:
                settled[entry.meter] += entry.quantity
        assert settled == self.measured, "what was measured is not what was settled"
        assert left >= 0, "the budget was passed"

    async def _end_all(self) -> None:
        for job in [*self._in(JobState.RUNNING), *self._in(JobState.QUEUED)]:
            ended = job.moved(JobState.FAILED, self.now)
            await self._apply(ended, lambda unit, one=ended: release(unit, one, self.now))
        async with self.units(write=False) as unit:
            kept = await unit.ledger.derived("acme")
            entries = await _all(unit)
        assert not kept.holds, "something is held for nobody"
        assert _statement(entries, len(entries) or 1) == _statement(entries, 3) == _statement(entries, 1)
        middle = entries[len(entries) // 2].time if entries else self.now
        parts = (
            [entry for entry in entries if entry.time < middle],
            [entry for entry in entries if entry.time >= middle],
        )
        assert [*parts[0], *parts[1]] == entries, "parts of a time are in the order of the whole"


async def _all(unit: UnitOfWork) -> list[LedgerEntry]:
    return list((await unit.ledger.entries(LedgerRange("acme"), 10_000, None)).items)


def _statement(entries: list[LedgerEntry], piece: int) -> Any:
    total = StatementSum()
    for start in range(0, len(entries), piece):
        total.add(entries[start : start + piece])
    begin = datetime.min.replace(tzinfo=samples.NOW.tzinfo)
    return total.statement("acme", begin, samples.NOW, sums_agree=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_happens_the_ledger_adds_up(sqlite_template: Path) -> None:
    Ledgers.template = sqlite_template
    run_state_machine_as_test(
        Ledgers,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
