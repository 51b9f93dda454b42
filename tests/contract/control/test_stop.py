"""Pausing, resuming and preempting, whatever the job is doing; and processes that hang."""

from datetime import timedelta

import pytest
from tests.contract.control.platform import LEASE, UID, Platform, check_invariants
from tests.contract.control.test_job_life import RUN, SECOND, pass_lease, running
from tests.contract.store import samples

from trellis.errors import Aborted, FailedPrecondition, Reason
from trellis.server.app.hosts import RunStatus
from trellis.server.domain.stop import Stop
from trellis.server.domain.tuning_job import EndCause, EventLevel, JobState, StopRequest


async def said(platform: Platform) -> list[JobState]:
    return [event.state for event in await platform.events() if event.state]


async def refused(platform: Platform, state: JobState, *deeds: str) -> None:
    for deed in deeds:
        with pytest.raises(FailedPrecondition, match=f"is {state}") as caught:
            await getattr(platform, deed)()
        assert (caught.value.reason, caught.value.metadata["state"]) == (Reason.INVALID_STATE, state.value)


async def test_a_running_job_pauses_and_goes_on_when_it_is_resumed(platform: Platform) -> None:
    server = await running(platform)
    await platform.pause()
    begun = platform.clock.now()
    assert (await platform.job()).state is JobState.PAUSING
    platform.clock.pass_seconds(2)
    stop = await platform.report(RUN)
    assert stop == Stop(StopRequest.PAUSE, begun + timedelta(seconds=60))
    assert stop.seconds_left(platform.clock.now()) == 58.0
    await platform.fail(RUN, EndCause.PAUSED)
    await server.round()
    job = await platform.job()
    assert (job.state, job.failure_count, job.error) == (JobState.PAUSED, 0, None)
    platform.cluster.end(RUN, RunStatus.SUCCEEDED)
    platform.clock.pass_seconds(3600)
    await server.round()
    assert platform.cluster.started == [RUN], "a paused job waits to be resumed"
    await platform.resume()
    await server.round()
    assert platform.cluster.started == [RUN, SECOND]
    await platform.begin(SECOND)
    await platform.complete(SECOND)
    assert await said(platform) == [
        *(JobState.STARTING, JobState.RUNNING, JobState.PAUSING, JobState.PAUSED),
        *(JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED),
    ]
    await check_invariants(platform, [UID])


async def test_a_paused_job_takes_no_place(platform: Platform) -> None:
    server = await running(platform)
    await platform.pause()
    await platform.fail(RUN, EndCause.PAUSED)
    await platform.add_jobs(*(samples.alone(number) for number in (2, 3, 4)))
    await server.round()
    states = [(await platform.job(f"uid-acme-{number}")).state for number in range(1, 5)]
    assert states == [JobState.PAUSED, JobState.STARTING, JobState.STARTING, JobState.QUEUED]
    await platform.resume()
    await server.round()
    assert (await platform.job()).queue_reason is not None, "it waits for its turn"


async def test_a_job_that_waits_is_paused_at_once(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await platform.pause()
    await platform.pause()
    assert await said(platform) == [JobState.PAUSED]
    await server.round()
    assert platform.cluster.started == []
    await platform.resume()
    await server.round()
    assert platform.cluster.started == [RUN]


@pytest.mark.parametrize("deed", ["pause", "preempt"])
async def test_a_job_whose_process_has_not_called_leaves_at_once(platform: Platform, deed: str) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.round()
    await getattr(platform, deed)()
    assert (await platform.job()).state is (JobState.PAUSED if deed == "pause" else JobState.QUEUED)
    with pytest.raises(Aborted):
        await platform.begin(RUN)
    await server.reap.once()
    assert platform.cluster.runs[RUN].status is RunStatus.STOPPED
    await check_invariants(platform, [UID])


async def test_a_job_that_is_resumed_before_it_has_left_is_queued_when_it_has(platform: Platform) -> None:
    server = await running(platform)
    await platform.pause()
    assert await platform.report(RUN)
    await platform.resume()
    assert (await platform.job()).state is JobState.RUNNING
    await platform.fail(RUN, EndCause.PAUSED)
    job = await platform.job()
    assert (job.state, job.failure_count, job.retry_time) == (JobState.QUEUED, 0, None)
    platform.cluster.end(RUN, RunStatus.SUCCEEDED)
    await server.round()
    assert platform.cluster.started == [RUN, SECOND]


async def test_a_job_that_is_resumed_before_its_process_heard_goes_on(platform: Platform) -> None:
    server = await running(platform)
    await platform.pause()
    await platform.resume()
    platform.clock.pass_seconds(20)
    assert await platform.report(RUN) is None
    platform.clock.pass_seconds(20)
    await server.stop.once()
    assert (await platform.job()).state is JobState.RUNNING


@pytest.mark.parametrize(("deed", "state"), [("pause", JobState.PAUSED), ("preempt", JobState.QUEUED)])
async def test_a_process_that_does_not_leave_is_ended_at_the_deadline(
    platform: Platform, deed: str, state: JobState
) -> None:
    server = await running(platform)
    await getattr(platform, deed)()
    for number in range(1, 4):
        platform.clock.pass_seconds(19)
        await platform.report(RUN, number)
    await server.stop.once()
    assert (await platform.job()).state not in {JobState.PAUSED, JobState.QUEUED}
    platform.clock.pass_seconds(3)
    await server.stop.once()
    job = await platform.job()
    assert (job.state, job.failure_count) == (state, 0)
    with pytest.raises(Aborted):
        await platform.report(RUN, 4)
    warning, last = (await platform.events())[-2:]
    assert (warning.level, last.state) == (EventLevel.WARNING, state)
    assert "did not leave within 60 s" in warning.message
    await server.reap.once()
    assert platform.cluster.alive() == []
    await check_invariants(platform, [UID])


async def test_a_preempted_job_is_queued_before_younger_ones_and_says_why(platform: Platform) -> None:
    server = await running(platform)
    await platform.preempt("A node goes down.")
    assert (await platform.events())[-1].message.endswith("queued again. A node goes down.")
    await platform.preempt("Again.")
    assert await said(platform) == [JobState.STARTING, JobState.RUNNING, JobState.PREEMPTING]
    stop = await platform.report(RUN)
    assert stop is not None
    assert stop.request is StopRequest.PREEMPT
    await platform.add_jobs(samples.alone(2), samples.alone(3))
    await platform.fail(RUN, EndCause.PREEMPTED)
    assert (await platform.job()).failure_count == 0
    await server.admit.once()
    assert [(await platform.job(f"uid-acme-{n}")).state for n in (1, 2, 3)] == [
        *(JobState.STARTING, JobState.STARTING, JobState.QUEUED)
    ]


async def test_a_preempted_job_can_be_paused(platform: Platform) -> None:
    await running(platform)
    await platform.preempt()
    await platform.pause()
    await platform.fail(RUN, EndCause.PREEMPTED)
    assert (await platform.job()).state is JobState.PAUSED


@pytest.mark.parametrize("deed", ["pause", "preempt"])
async def test_a_job_that_was_done_before_it_left_has_succeeded(platform: Platform, deed: str) -> None:
    await running(platform)
    await getattr(platform, deed)()
    await platform.complete(RUN)
    assert (await platform.job()).state is JobState.SUCCEEDED


async def test_a_process_that_dies_while_it_pauses_leaves_the_job_paused(platform: Platform) -> None:
    server = await running(platform)
    await platform.pause()
    await pass_lease(platform, server)
    job = await platform.job()
    assert (job.state, job.failure_count) == (JobState.PAUSED, 1)
    assert "silent" in (await platform.events())[-1].message


async def test_a_user_error_while_it_pauses_is_still_one(platform: Platform) -> None:
    await running(platform)
    await platform.pause()
    await platform.fail(RUN, EndCause.USER)
    assert (await platform.job()).state is JobState.FAILED


@pytest.mark.parametrize("before", ["queued", "paused", "pausing", "preempting", "starting", "running"])
async def test_a_job_can_be_cancelled_from_everywhere(platform: Platform, before: str) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    if before in {"pausing", "preempting", "starting", "running"}:
        await server.round()
    if before in {"pausing", "preempting", "running"}:
        await platform.begin(RUN)
    if before in {"paused", "pausing"}:
        await platform.pause()
    if before == "preempting":
        await platform.preempt()
    assert (await platform.job()).state.value == before.upper()
    await platform.cancel()
    platform.clock.pass_seconds(5)
    await server.round()
    job = await platform.job()
    assert (job.state, job.stop_time) == (JobState.CANCELLED, None)
    assert platform.cluster.alive() == []
    await refused(platform, JobState.CANCELLED, "pause", "resume", "preempt")


async def test_what_can_not_be_asked_is_refused(platform: Platform) -> None:
    await platform.add_jobs(samples.alone())
    await refused(platform, JobState.QUEUED, "resume", "preempt")
    await platform.pause()
    await refused(platform, JobState.PAUSED, "preempt")
    await platform.resume()
    server = platform.server()
    await server.round()
    await platform.begin(RUN)
    await refused(platform, JobState.RUNNING, "resume")
    await platform.cancel()
    await refused(platform, JobState.CANCELLING, "pause", "resume", "preempt")


async def test_a_process_without_room_is_tried_elsewhere_but_not_for_ever(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    for number in range(1, 11):
        await server.round()
        run = (await platform.attempts())[-1].submission_id
        await platform.begin(run)
        await platform.fail(run, EndCause.DECLINED)
        platform.cluster.end(run, RunStatus.SUCCEEDED)
        assert (await platform.job()).decline_count == number
        platform.clock.pass_seconds(1)
    job = await platform.job()
    assert (job.state, job.failure_count) == (JobState.FAILED, 0)
    assert job.error is not None
    assert job.error.message == "10 trainers in a row had no room for the job. The last one: The disk is full."


async def test_memory_that_does_not_suffice_halves_the_work_at_once(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    for halvings in range(5):
        await server.round()
        run = (await platform.attempts())[-1].submission_id
        work = await platform.begin(run)
        assert work.memory_halvings == halvings
        await platform.fail(run, EndCause.OUT_OF_MEMORY)
        platform.cluster.end(run, RunStatus.SUCCEEDED)
    job = await platform.job()
    assert (job.state, job.failure_count) == (JobState.FAILED, 0)
    assert job.error is not None
    assert "halved 4 times" in job.error.message


async def hang(platform: Platform, server_once: object, minutes: int, first: int = 1) -> None:
    """The process reports all the time, but always the same."""
    for number in range(first, first + 6 * minutes):
        platform.clock.pass_seconds(10)
        await platform.report(RUN, number)
    await server_once()  # type: ignore[operator]


async def test_a_process_that_reports_but_makes_no_step_is_ended(platform: Platform) -> None:
    server = await running(platform)
    await platform.progress(RUN, 1, step=7, phase="training")
    await hang(platform, server.steps_watch.once, 29, first=2)
    assert (await platform.job()).state is JobState.RUNNING
    await hang(platform, server.steps_watch.once, 1, first=2 + 29 * 6)
    job = await platform.job()
    assert (job.state, job.failure_count) == (JobState.QUEUED, 1)
    message = (await platform.events())[-1].message
    assert "made no progress for 30 min; it was at step 7 in the phase 'training'" in message


async def test_a_step_keeps_an_attempt_even_if_it_was_done_before(platform: Platform) -> None:
    server = await running(platform)
    await platform.progress(RUN, 1, step=7, phase="training")
    platform.cluster.end(RUN, RunStatus.FAILED)
    await server.round()
    platform.clock.pass_seconds(60)
    await server.round()
    await platform.begin(SECOND)
    for number, step in enumerate((1, 2, 3), start=1):
        platform.clock.pass_seconds(1000)
        await platform.progress(SECOND, number, step=step, phase="training")
        await server.steps_watch.once()
    assert (await platform.job()).state is JobState.RUNNING


async def test_other_phases_have_more_time(platform: Platform) -> None:
    server = await running(platform)
    await platform.progress(RUN, 1, step=0, phase="loading the base")
    platform.clock.pass_seconds(3 * 3600 - 1)
    await platform.report(RUN, 2)
    await server.steps_watch.once()
    assert (await platform.job()).state is JobState.RUNNING
    platform.clock.pass_seconds(1)
    await platform.report(RUN, 3)
    await server.steps_watch.once()
    assert (await platform.job()).state is JobState.QUEUED


async def test_a_server_that_was_away_blames_nobody_for_standing_still(platform: Platform) -> None:
    server = await running(platform)
    await platform.progress(RUN, 1, step=7, phase="training")
    platform.clock.pass_seconds(3600 + LEASE)
    await server.steps_watch.once()
    assert (await platform.job()).state is JobState.RUNNING
    await platform.progress(RUN, 2, step=900, phase="training")
    await server.steps_watch.once()
    assert (await platform.job()).state is JobState.RUNNING
