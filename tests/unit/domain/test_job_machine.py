"""Drives a job through whatever may happen to it, in any order, and checks what must hold at each point."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trellis.errors import Reason
from trellis.server.domain.retry import RetryPolicy, after_bad_end
from trellis.server.domain.tuning_job import (
    ACTIVE,
    ENDED,
    MOVES,
    STOPPING,
    EndCause,
    JobError,
    JobEvent,
    JobState,
    TuningJob,
    UnlawfulMoveError,
)
from trellis.spec import TrainSpec

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
SPEC = TrainSpec("baseModels/tiny", "/models/tiny", "r1", "0", "tenants/acme/datasets/faq/versions/0", "0", 512)
ERROR = JobError(Reason.TRAINING_FAILED, "It died.")


def in_state(*states: JobState):
    return precondition(lambda self: self.job.state in states)


class JobMachine(RuleBasedStateMachine):
    """A job, as the scheduler, its process, the loops and its user move it."""

    @initialize(attempts=st.integers(1, 4), declines=st.integers(1, 3), halvings=st.integers(0, 3))
    def submit(self, attempts: int, declines: int, halvings: int) -> None:
        self.now = BEGIN
        self.policy = RetryPolicy(
            max_attempts=attempts,
            longest=timedelta(seconds=5),
            max_declines=declines,
            max_memory_halvings=halvings,
        )
        self.job = TuningJob("acme", "job-1", "uid-1", "", SPEC, self.now, self.now)
        self.history = [self.job]
        self.events: list[JobEvent] = []

    def become(self, job: TuningJob) -> None:
        self.history.append(job)
        self.job = job

    def end_badly(self, cause: EndCause) -> TuningJob:
        """The job as it was before."""
        before = self.job
        job, event = after_bad_end(before, ERROR, cause=cause, now=self.now, policy=self.policy)
        assert event.state is job.state
        assert event.time == self.now
        self.events.append(event)
        self.become(job)
        return before

    @rule(seconds=st.integers(0, 10))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @in_state(JobState.QUEUED)
    @rule()
    def admit(self) -> None:
        if self.job.retry_time is None or self.job.retry_time <= self.now:
            job = self.job.moved(JobState.STARTING, self.now)
            self.become(replace(job, attempt_count=job.attempt_count + 1, retry_time=None))

    @in_state(JobState.STARTING)
    @rule()
    def process_calls(self) -> None:
        self.become(self.job.moved(JobState.RUNNING, self.now))

    @in_state(JobState.RUNNING, *STOPPING)
    @rule()
    def process_succeeds(self) -> None:
        self.become(self.job.moved(JobState.SUCCEEDED, self.now))

    @in_state(*ACTIVE)
    @rule()
    def process_dies(self) -> None:
        before = self.end_badly(EndCause.INFRASTRUCTURE)
        if before.state is JobState.CANCELLING:
            assert self.job.state is JobState.CANCELLED
            return
        assert self.job.failure_count == before.failure_count + 1
        if before.state is JobState.PAUSING:
            assert (self.job.state, self.job.retry_time) == (JobState.PAUSED, None)
        elif self.job.failure_count < self.policy.max_attempts:
            assert self.job.state is JobState.QUEUED
            assert self.job.retry_time is not None
            assert self.now < self.job.retry_time <= self.now + self.policy.longest
        else:
            self.given_up()

    @in_state(*ACTIVE)
    @rule()
    def memory_does_not_suffice(self) -> None:
        before = self.end_badly(EndCause.OUT_OF_MEMORY)
        if before.state is JobState.CANCELLING:
            return
        assert self.job.memory_halvings == before.memory_halvings + 1
        assert self.job.failure_count == before.failure_count
        if before.state is not JobState.PAUSING:
            if before.memory_halvings < self.policy.max_memory_halvings:
                assert (self.job.state, self.job.retry_time) == (JobState.QUEUED, None)
            else:
                self.given_up()

    @in_state(*ACTIVE)
    @rule()
    def trainer_has_no_room(self) -> None:
        before = self.end_badly(EndCause.DECLINED)
        if before.state in {JobState.CANCELLING, JobState.PAUSING}:
            return
        assert self.job.failure_count == before.failure_count
        if before.decline_count + 1 < self.policy.max_declines:
            assert self.job.state is JobState.QUEUED
            assert self.job.retry_time == self.now + self.policy.decline_pause
        else:
            self.given_up()

    def given_up(self) -> None:
        assert self.job.state is JobState.FAILED
        assert self.job.error is not None
        assert self.job.error.reason == Reason.ATTEMPTS_EXHAUSTED
        assert ERROR.message in self.job.error.message

    @in_state(*ACTIVE)
    @rule()
    def process_fails_for_good(self) -> None:
        before = self.end_badly(EndCause.USER)
        cancelling = before.state is JobState.CANCELLING
        assert self.job.state is (JobState.CANCELLED if cancelling else JobState.FAILED)
        assert self.job.error == (None if cancelling else ERROR)

    @in_state(*ACTIVE)
    @rule(cause=st.sampled_from([EndCause.PAUSED, EndCause.PREEMPTED]))
    def process_leaves(self, cause: EndCause) -> None:
        """By request; what it was asked may have changed before it had left."""
        before = self.end_badly(cause)
        states = {JobState.PAUSING: JobState.PAUSED, JobState.CANCELLING: JobState.CANCELLED}
        assert self.job.state is states.get(before.state, JobState.QUEUED)
        assert self.job.retry_time is None
        assert self.job.failure_count == before.failure_count

    @in_state(JobState.QUEUED, JobState.PAUSED, *(ACTIVE - {JobState.CANCELLING}))
    @rule()
    def user_cancels(self) -> None:
        active = self.job.state in ACTIVE
        self.become(self.job.moved(JobState.CANCELLING if active else JobState.CANCELLED, self.now))

    @in_state(JobState.RUNNING, JobState.PREEMPTING)
    @rule()
    def user_pauses(self) -> None:
        self.become(self.job.moved(JobState.PAUSING, self.now))
        assert self.job.stop_time == self.now

    @in_state(JobState.QUEUED)
    @rule()
    def user_pauses_what_waits(self) -> None:
        self.become(self.job.moved(JobState.PAUSED, self.now))

    @in_state(JobState.PAUSED, JobState.PAUSING)
    @rule()
    def user_resumes(self) -> None:
        state = JobState.QUEUED if self.job.state is JobState.PAUSED else JobState.RUNNING
        self.become(self.job.moved(state, self.now))

    @in_state(JobState.RUNNING)
    @rule()
    def admin_preempts(self) -> None:
        self.become(self.job.moved(JobState.PREEMPTING, self.now))
        assert self.job.stop_time == self.now

    @rule(state=st.sampled_from(JobState))
    def unlawful_moves_are_refused(self, state: JobState) -> None:
        if state not in MOVES[self.job.state]:
            with pytest.raises(UnlawfulMoveError, match="can't go from"):
                self.job.moved(state, self.now)

    @in_state(*ENDED)
    @rule(cause=st.sampled_from(EndCause))
    def what_ended_stays(self, cause: EndCause) -> None:
        with pytest.raises(UnlawfulMoveError):
            after_bad_end(self.job, ERROR, cause=cause, now=self.now, policy=self.policy)

    @invariant()
    def every_step_was_lawful(self) -> None:
        for before, after in zip(self.history, self.history[1:], strict=False):
            assert after.state in MOVES[before.state]
            assert after.revision == before.revision + 1
            assert after.update_time >= before.update_time
            assert not before.ended

    @invariant()
    def times_say_what_happened(self) -> None:
        states = [job.state for job in self.history]
        assert (self.job.end_time is not None) == self.job.ended
        assert (self.job.start_time is not None) == (JobState.RUNNING in states)
        assert (self.job.cancel_time is not None) == (JobState.CANCELLING in states)
        assert (self.job.error is not None) == (self.job.state is JobState.FAILED)
        assert (self.job.stop_time is not None) == (self.job.state in {JobState.PAUSING, JobState.PREEMPTING})
        assert self.job.retry_time is None or self.job.state is JobState.QUEUED

    @invariant()
    def attempts_are_counted(self) -> None:
        states = [job.state for job in self.history]
        assert self.job.attempt_count == states.count(JobState.STARTING)
        assert self.job.failure_count <= self.job.attempt_count

    @invariant()
    def identity_never_changes(self) -> None:
        first = self.history[0]
        assert (self.job.name, self.job.uid, self.job.spec) == (first.name, first.uid, first.spec)


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(
    max_examples=100, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow]
)  # a busy machine is
