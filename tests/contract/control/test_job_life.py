"""A job's way through the loops, on both databases."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.contract.control.platform import LEASE, UID, Platform, Server, check_invariants
from tests.contract.store import samples

from trellis.errors import Aborted, Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.control.attempts import submission_id_for
from trellis.server.domain.retry import RetryPolicy
from trellis.server.domain.tuning_job import JobState, QueueCode

RUN = submission_id_for("here", UID, 1)
SECOND = submission_id_for("here", UID, 2)


async def running(platform: Platform) -> Server:
    """A server that has listened for long enough, and a job whose process reports."""
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.round()
    await platform.begin(RUN)
    return server


async def pass_lease(platform: Platform, server: Server) -> None:
    """As long as a lease lasts, while the server is there all the time."""
    for _ in range(2):
        platform.clock.pass_seconds(LEASE / 2)
        await server.watch.once()


async def test_a_job_is_admitted_launched_and_succeeds(platform: Platform) -> None:
    server = await running(platform)
    request = platform.cluster.runs[RUN].request
    assert request.entrypoint == ("python", "-m", "trellis_jobs.distributed.main")
    assert request.metadata == {"tuning_job": "tenants/acme/tuningJobs/job-1", "attempt": "1"}
    assert (await platform.job()).state is JobState.RUNNING
    await platform.complete(RUN)
    await server.round()
    assert platform.cluster.alive() == [RUN], "a process that ended well may leave by itself"
    platform.cluster.end(RUN, RunStatus.SUCCEEDED, output="noise\n")
    await server.round()
    assert platform.cluster.runs == {}
    assert [attempt.cleaned_up for attempt in await platform.attempts()] == [True]
    assert await platform.log() == "", "the last output matters where something went wrong"
    assert [event.state for event in await platform.events()] == [
        JobState.STARTING,
        JobState.RUNNING,
        JobState.SUCCEEDED,
    ]
    await check_invariants(platform, [UID])


async def test_a_process_that_ended_well_but_stays_is_stopped(platform: Platform) -> None:
    server = await running(platform)
    await platform.complete(RUN)
    platform.clock.pass_seconds(60)
    await server.reap.once()
    assert platform.cluster.alive() == []


async def test_a_lost_lease_is_retried_after_a_pause_and_succeeds(platform: Platform) -> None:
    server = await running(platform)
    await pass_lease(platform, server)
    job = await platform.job()
    assert (job.state, job.attempt_count) == (JobState.QUEUED, 1)
    assert job.retry_time == platform.clock.now() + timedelta(seconds=2)
    await server.round()
    assert platform.cluster.alive() == [], "the old run is stopped"
    waiting = (await platform.job()).queue_reason
    assert waiting is not None
    assert waiting.code is QueueCode.RETRY_BACKOFF
    platform.clock.pass_seconds(2)
    await server.round()
    await platform.begin(SECOND)
    await platform.complete(SECOND)
    assert (await platform.job()).state is JobState.SUCCEEDED
    await check_invariants(platform, [UID])


async def test_a_fenced_process_can_change_nothing(platform: Platform) -> None:
    server = await running(platform)
    caller = await platform.caller(RUN)
    await pass_lease(platform, server)
    with pytest.raises(Aborted, match="is over"):
        await platform.complete(RUN)
    assert caller.attempt is not None
    assert (await platform.job()).state is JobState.QUEUED


async def test_reports_keep_the_lease(platform: Platform) -> None:
    server = await running(platform)
    for number in range(1, 6):
        platform.clock.pass_seconds(LEASE * 0.7)
        assert not await platform.report(RUN, number)
        await server.watch.once()
    assert (await platform.job()).state is JobState.RUNNING


async def test_a_server_that_was_away_listens_before_it_judges(platform: Platform) -> None:
    await running(platform)
    platform.clock.pass_seconds(3600)
    server = platform.server()
    await server.watch.once()
    assert (await platform.job()).state is JobState.RUNNING
    for number in (1, 2):
        await platform.report(RUN, number)
        platform.clock.pass_seconds(LEASE / 2)
        await server.watch.once()
    assert (await platform.job()).state is JobState.RUNNING, "it reported in time"
    await pass_lease(platform, server)
    assert (await platform.job()).state is JobState.QUEUED, "now it was silent for too long"


async def test_a_server_that_slept_listens_again(platform: Platform) -> None:
    server = await running(platform)
    for number in range(1, 4):
        platform.clock.pass_seconds(LEASE / 2)
        await platform.report(RUN, number)
        await server.watch.once()
    platform.clock.pass_seconds(3600)
    await server.watch.once()
    assert (await platform.job()).state is JobState.RUNNING


async def test_a_lease_shorter_than_the_pause_between_rounds_still_ends(platform: Platform) -> None:
    await running(platform)
    platform.settings = replace(platform.settings, lease=timedelta(seconds=1))
    server = platform.server()
    for _ in range(8):
        platform.clock.pass_seconds(5)
        await server.watch.once()
    assert (await platform.job()).state is JobState.QUEUED


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.STOPPED, RunStatus.SUCCEEDED])
async def test_a_run_that_ended_without_a_word_is_retried_at_once(platform: Platform, status: RunStatus) -> None:
    server = await running(platform)
    platform.cluster.end(RUN, status, "Traceback\nexit code 137", output="the last words\n")
    await server.round()
    job = await platform.job()
    assert job.state is JobState.QUEUED
    assert "exit code 137" in (await platform.events())[-1].message
    assert "the last words" in await platform.log()
    await server.round()
    assert (await platform.log()).count("the last words") == 1


async def test_a_run_that_ended_before_its_first_call_is_retried(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.round()
    platform.cluster.end(RUN, RunStatus.FAILED, "No module named trellis_jobs")
    await server.launch.once()
    assert platform.cluster.started == [RUN], "launching it again would not help"
    await server.watch.once()
    assert (await platform.job()).state is JobState.QUEUED


async def test_a_cluster_that_lost_its_memory_costs_one_attempt(platform: Platform) -> None:
    server = await running(platform)
    platform.cluster.restart()
    await server.round()
    assert (await platform.job()).state is JobState.QUEUED
    platform.clock.pass_seconds(2)
    await server.round()
    assert platform.cluster.started == [SECOND]


async def test_a_cluster_that_lost_its_memory_before_the_first_call_is_told_again(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.round()
    platform.cluster.restart()
    await server.round()
    assert platform.cluster.alive() == [RUN]
    assert (await platform.job()).attempt_count == 1


async def test_a_run_that_never_starts_is_retried(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.round()
    for _ in range(25):
        platform.clock.pass_seconds(15)
        await server.watch.once()
    assert "did not start within 300 s" in (await platform.events())[-1].message
    await server.round()
    assert platform.cluster.runs[RUN].status is RunStatus.STOPPED


async def test_attempts_are_not_endless(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    policy = RetryPolicy()
    for number in range(1, policy.max_attempts + 1):
        await server.round()
        run = submission_id_for("here", UID, number)
        await platform.begin(run)
        platform.cluster.end(run, RunStatus.FAILED, "killed")
        await server.round()
        platform.clock.pass_seconds(policy.pause(number).total_seconds())
    job = await platform.job()
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.reason == "ATTEMPTS_EXHAUSTED"
    assert "killed" in job.error.message
    await server.round()
    assert await platform.job() == job
    await check_invariants(platform, [UID])


async def test_an_unreachable_cluster_loses_nothing(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    platform.cluster.reachable = False
    await server.admit.once()
    with pytest.raises(Unavailable):
        await server.launch.once()
    await server.watch.once()
    platform.cluster.reachable = True
    await server.launch.once()
    assert platform.cluster.started == [RUN]


async def test_an_outage_of_the_cluster_costs_no_attempt(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    platform.cluster.reachable = False
    await server.admit.once()
    for _ in range(200):
        platform.clock.pass_seconds(15)
        await server.watch.once()
    platform.cluster.reachable = True
    await server.watch.once()
    await server.launch.once()
    assert platform.cluster.started == [RUN]
    await platform.begin(RUN)
    job = await platform.job()
    assert (job.state, job.attempt_count, job.failure_count) == (JobState.RUNNING, 1, 0)


async def test_a_run_that_does_not_start_after_an_outage_either_is_retried(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    platform.cluster.reachable = False
    await server.admit.once()
    for _ in range(25):
        platform.clock.pass_seconds(15)
        await server.watch.once()
    platform.cluster.reachable = True
    for _ in range(25):
        platform.clock.pass_seconds(15)
        await server.watch.once()
    job = await platform.job()
    assert (job.state, job.failure_count) == (JobState.QUEUED, 1)


async def test_leases_end_without_the_cluster(platform: Platform) -> None:
    server = await running(platform)
    platform.cluster.reachable = False
    await pass_lease(platform, server)
    assert (await platform.job()).state is JobState.QUEUED


async def test_a_run_that_the_cluster_refuses_keeps_no_other_waiting(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone(1), samples.alone(2))
    refused: list[str] = []

    def refuse(method: str) -> None:
        if method == "submit" and not refused:
            refused.append(method)
            raise Unavailable("ENGINE_UNAVAILABLE", "That one not.")

    platform.cluster.before = refuse
    await server.admit.once()
    with pytest.raises(Unavailable, match="That one not"):
        await server.launch.once()
    assert platform.cluster.started == [submission_id_for("here", "uid-acme-2", 1)]
    await server.launch.once()
    assert len(platform.cluster.started) == 2


async def test_jobs_beyond_capacity_wait_and_say_why(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(*(samples.alone(number) for number in range(1, 5)))
    await server.round()
    states = [(await platform.job(f"uid-acme-{number}")).state for number in range(1, 5)]
    assert states == [JobState.STARTING] * 2 + [JobState.QUEUED] * 2
    reason = (await platform.job("uid-acme-4")).queue_reason
    assert reason is not None
    assert (reason.code, reason.position) == (QueueCode.TENANT_LIMIT, 1)
