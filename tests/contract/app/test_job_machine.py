"""The job's state machine, driven through the use cases by whatever order of events hypothesis thinks of."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.server_fakes import World, admit, lay_adapter, make_world, prepare, submit, upload, validate

from trellis.errors import FailedPrecondition, Reason, TrellisError
from trellis.server.app import attempts, completion, progress, stopping, tuning_jobs
from trellis.server.app.attempt_end import end_attempt
from trellis.server.app.attempt_usage import AttemptUsage
from trellis.server.app.attempts import Assignment, Process
from trellis.server.app.completion import Completion
from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.app.progress import AttemptReport
from trellis.server.domain.caller import Caller
from trellis.server.domain.derived import derive
from trellis.server.domain.ledger import Meter
from trellis.server.domain.tuning_job import (
    ACTIVE,
    ENDED,
    EndCause,
    JobError,
    JobState,
    MetricPoint,
    Progress,
    StopRequest,
    TuningJob,
)
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import migrate
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

T = TypeVar("T")
REQUESTS = {
    JobState.CANCELLING: StopRequest.CANCEL,
    JobState.PAUSING: StopRequest.PAUSE,
    JobState.PREEMPTING: StopRequest.PREEMPT,
}
LAWFUL = {
    "pause": {
        JobState.QUEUED: JobState.PAUSED,
        JobState.STARTING: JobState.PAUSED,
        JobState.PAUSED: JobState.PAUSED,
        JobState.RUNNING: JobState.PAUSING,
        JobState.PREEMPTING: JobState.PAUSING,
        JobState.PAUSING: JobState.PAUSING,
    },
    "resume": {JobState.PAUSED: JobState.QUEUED, JobState.PAUSING: JobState.RUNNING},
    "preempt": {
        JobState.STARTING: JobState.QUEUED,
        JobState.RUNNING: JobState.PREEMPTING,
        JobState.PREEMPTING: JobState.PREEMPTING,
    },
}
"""By deed: the states in which it may be asked, and the one that follows at once."""
ERROR = JobError(Reason.TRAINING_FAILED, "It broke.")


class JobMachine(RuleBasedStateMachine):
    """One job; every attempt that ever was may speak at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="trellis-machine-"))
        self.callers: list[Caller] = []
        self.works: dict[int, Assignment] = {}
        self.next_report: dict[int, int] = {}
        self.acknowledged: set[tuple[int, str]] = set()
        self.ended_as: TuningJob | None = None
        self.step = 0
        self.do(self._set_up())

    async def _set_up(self) -> None:
        url = f"sqlite+aiosqlite:///{self.folder / 'm.db'}"
        await migrate(url)
        self.engine = create_engine_for(url)
        self.world: World = make_world(SqlUnitOfWorkFactory(self.engine), self.folder)
        base = await prepare(self.world.context, "acme")
        await validate(self.world.context, await upload(self.world.context, "acme"), base)
        self.job = await submit(self.world.context, "acme", deploy=True, alias="tenants/acme/aliases/a")

    def do(self, deed: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(deed)

    def teardown(self) -> None:
        self.do(self.engine.dispose())
        self.loop.close()
        shutil.rmtree(self.folder)

    def present(self) -> TuningJob:
        return self.do(tuning_jobs.get_tuning_job(self.world.context, self.job.name))

    def is_current(self, number: int) -> bool:
        job = self.present()
        return number == job.attempt_count and job.state in ACTIVE

    def speak(self, number: int, deed: Coroutine[Any, Any, T]) -> T | None:
        """What the attempt is answered; None if it was fenced, which it must be exactly when it does not count."""
        current = self.is_current(number)
        try:
            answer = self.do(deed)
        except TrellisError as error:
            if error.reason != Reason.ATTEMPT_FENCED:
                raise
            starting = self.present().state in {JobState.CANCELLING, JobState.STARTING}
            assert not current or (starting and number not in self.works)
            return None
        assert current
        return answer

    @precondition(lambda self: self.present().state is JobState.QUEUED)
    @rule()
    def is_admitted(self) -> None:
        _, caller = self.do(admit(self.world.context, self.job))
        self.callers.append(caller)

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.callers)))
        work = self.speak(number, attempts.start_attempt(self.world.context, self.callers[number - 1], Process()))
        if work is not None:
            assert work.next_report == self.next_report.setdefault(number, 1)
            self.works[number] = work

    @precondition(lambda self: self.works)
    @rule(data=st.data(), again=st.booleans())
    def reports(self, data: st.DataObject, again: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.works)))
        due = self.next_report[number]
        again = again and due > 1
        step = self.step + data.draw(st.integers(-2, 1))
        point = MetricPoint(max(step, 0), {"train_loss": 1.0}, self.world.clock.now())
        report = AttemptReport(due - again, Progress(max(step, 0), 9, "training"), [point])
        current = self.is_current(number)
        asked = self.speak(number, progress.report_attempt(self.world.context, self.callers[number - 1], report))
        if not current:
            return
        assert (asked.request if asked else None) == REQUESTS.get(self.present().state)
        if not again:
            self.next_report[number] += 1
            self.acknowledged.add((max(step, 0), "train_loss"))
            self.step = max(self.step, step)

    @precondition(lambda self: self.works)
    @rule(data=st.data(), cause=st.sampled_from(EndCause), tokens=st.integers(0, 9))
    def fails(self, data: st.DataObject, cause: EndCause, tokens: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.works)))
        usage = AttemptUsage(tokens, tokens / 2)
        self.speak(number, attempts.fail_attempt(self.world.context, self.callers[number - 1], ERROR, cause, usage))

    @precondition(lambda self: self.works)
    @rule(data=st.data(), good=st.booleans())
    def completes(self, data: st.DataObject, good: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.works)))
        digest = lay_adapter(self.world.context, self.works[number], self.folder / f"adapter-{number}")
        done = Completion(digest if good else "0" * 64, usage=AttemptUsage(5, 1.0))
        before = self.present()
        try:
            deed = completion.complete_attempt(self.world.context, self.callers[number - 1], done)
            if before.state is JobState.SUCCEEDED and before.attempt_count == number and good:
                assert self.do(deed).endswith(before.adapter_digest[:24])  # said again
            else:
                self.speak(number, deed)
        except FailedPrecondition:
            assert not good
            assert self.present().state is before.state

    @precondition(lambda self: self.callers)
    @rule()
    def is_lost(self) -> None:
        """What the watch does when a lease ends."""

        async def lose() -> None:
            async with self.world.context.units() as unit:
                job = await unit.jobs.get_by_uid(self.job.uid, for_update=True)
                attempt = await unit.jobs.get_attempt(self.job.uid, len(self.callers))
                assert job is not None
                assert attempt is not None
                if attempt.ended or job.ended:
                    return
                now, policy = self.world.context.now(), self.world.context.settings.retry
                await end_attempt(unit, job, attempt, ERROR, cause=EndCause.INFRASTRUCTURE, now=now, policy=policy)
                await unit.commit()

        self.do(lose())

    @rule()
    def is_cancelled(self) -> None:
        before = self.present()
        after = self.do(tuning_jobs.cancel_tuning_job(self.world.context, self.job.name))
        if before.ended:
            assert after == before
        else:
            assert after.state in {JobState.CANCELLED, JobState.CANCELLING}

    @rule(deed=st.sampled_from(["pause", "resume", "preempt"]))
    def is_asked(self, deed: str) -> None:
        """What the job is asked, it does at once or becomes about to; otherwise it is refused and stays as it is."""
        before = self.present()
        deed_done = getattr(stopping, f"{deed}_tuning_job")(self.world.context, self.job.name)
        if before.state in LAWFUL[deed]:
            assert self.do(deed_done).state is LAWFUL[deed][before.state]
            return
        with pytest.raises(FailedPrecondition) as caught:
            self.do(deed_done)
        assert caught.value.reason == Reason.INVALID_STATE
        assert self.present() == before

    @rule(seconds=st.integers(0, 60))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.time += timedelta(seconds=seconds)

    @invariant()
    def holds(self) -> None:
        self.do(self._check())

    async def _check(self) -> None:
        async with self.world.context.units(write=False) as unit:
            job = await unit.jobs.get_by_uid(self.job.uid)
            assert job is not None
            events = await unit.jobs.events(job.uid, 0, 10_000)
            open_attempts = await unit.jobs.open_attempts(100)
            points = (await unit.jobs.metrics(job.uid, 10_000, None)).items
            kept = await unit.ledger.derived("acme")
            entries = (await unit.ledger.entries(LedgerRange("acme"), 1000, None)).items
            alias = await unit.adapters.get_alias("acme", "a")
        assert [event.sequence for event in events] == list(range(1, job.event_count + 1))
        states = [event.state for event in events if event.state]
        assert states[-1] is job.state
        assert sum(state in ENDED for state in states) == (1 if job.ended else 0)
        assert len(open_attempts) == (0 if job.state not in ACTIVE else 1)
        recorded = [(point.step, name) for point in points for name in point.values]
        told = [(e.metrics.step, name) for e in events if e.metrics for name in e.metrics.values]
        assert sorted(told) == sorted(recorded)
        assert len(set(told)) == len(told)
        assert self.acknowledged <= set(recorded)
        succeeded = job.state is JobState.SUCCEEDED
        assert kept == derive(entries)
        assert not (kept.holds and job.ended)
        totals = {meter: quantity for (_, _, meter), quantity in kept.days.items()}
        assert totals.get(Meter.TRAINED_TOKENS, 0) == job.used_tokens
        milliseconds = totals.get(Meter.ACCELERATOR_MILLISECONDS, 0)
        assert abs(milliseconds - job.used_seconds * 2000) <= job.attempt_count / 2
        assert job.used_tokens >= (5 if succeeded else 0)
        assert (alias is not None) == succeeded
        if self.ended_as is not None:
            assert job == self.ended_as
        self.ended_as = job if job.ended else None


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(
    max_examples=15,
    stateful_step_count=35,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
