"""Drives a job through whatever may happen to it, in any order, and checks what must hold at each point."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trellis.errors import Reason
from trellis.server.domain.retry import RetryPolicy, after_bad_end
from trellis.server.domain.tuning_job import (
    ACTIVE,
    ENDED,
    MOVES,
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

    @initialize(attempts=st.integers(1, 4))
    def submit(self, attempts: int) -> None:
        self.now = BEGIN
        self.policy = RetryPolicy(max_attempts=attempts, longest=timedelta(seconds=5))
        self.job = TuningJob("acme", "job-1", "uid-1", "", SPEC, self.now, self.now)
        self.history = [self.job]
        self.events: list[JobEvent] = []

    def become(self, job: TuningJob) -> None:
        self.history.append(job)
        self.job = job

    def end_badly(self, *, retryable: bool) -> None:
        job, event = after_bad_end(self.job, ERROR, retryable=retryable, now=self.now, policy=self.policy)
        assert event.state is job.state
        assert event.time == self.now
        self.events.append(event)
        self.become(job)

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

    @in_state(JobState.RUNNING, JobState.CANCELLING)
    @rule()
    def process_succeeds(self) -> None:
        self.become(self.job.moved(JobState.SUCCEEDED, self.now))

    @in_state(*ACTIVE)
    @rule()
    def process_dies(self) -> None:
        tried, cancelling = self.job.attempt_count, self.job.state is JobState.CANCELLING
        self.end_badly(retryable=True)
        if cancelling:
            assert self.job.state is JobState.CANCELLED
        elif tried < self.policy.max_attempts:
            assert self.job.state is JobState.QUEUED
            assert self.job.retry_time is not None
            assert self.now < self.job.retry_time <= self.now + self.policy.longest
        else:
            assert self.job.error is not None
            assert self.job.error.reason == Reason.ATTEMPTS_EXHAUSTED
            assert ERROR.message in self.job.error.message

    @in_state(*ACTIVE)
    @rule()
    def process_fails_for_good(self) -> None:
        cancelling = self.job.state is JobState.CANCELLING
        self.end_badly(retryable=False)
        assert self.job.state is (JobState.CANCELLED if cancelling else JobState.FAILED)
        assert self.job.error == (None if cancelling else ERROR)

    @in_state(JobState.QUEUED, JobState.STARTING, JobState.RUNNING)
    @rule()
    def user_cancels(self) -> None:
        queued = self.job.state is JobState.QUEUED
        self.become(self.job.moved(JobState.CANCELLED if queued else JobState.CANCELLING, self.now))

    @rule(state=st.sampled_from(JobState))
    def unlawful_moves_are_refused(self, state: JobState) -> None:
        if state not in MOVES[self.job.state]:
            with pytest.raises(UnlawfulMoveError, match="can't go from"):
                self.job.moved(state, self.now)

    @in_state(*ENDED)
    @rule()
    def what_ended_stays(self) -> None:
        with pytest.raises(UnlawfulMoveError):
            after_bad_end(self.job, ERROR, retryable=True, now=self.now, policy=self.policy)

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

    @invariant()
    def attempts_are_counted(self) -> None:
        states = [job.state for job in self.history]
        assert self.job.attempt_count == states.count(JobState.STARTING) <= self.policy.max_attempts

    @invariant()
    def identity_never_changes(self) -> None:
        first = self.history[0]
        assert (self.job.name, self.job.uid, self.job.spec) == (first.name, first.uid, first.spec)


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(max_examples=60, stateful_step_count=25)
