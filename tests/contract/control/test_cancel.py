"""Cancelling, whatever the job is doing."""

from tests.contract.control.platform import UID, Platform, check_invariants
from tests.contract.control.test_job_life import RUN, pass_lease, running
from tests.contract.store import samples

from trellis.server.app.hosts import RunStatus
from trellis.server.domain.tuning_job import EndCause, JobState


async def test_a_queued_job_is_cancelled_at_once(platform: Platform) -> None:
    await platform.add_jobs(samples.alone())
    await platform.cancel()
    await platform.server().round()
    job = await platform.job()
    assert (job.state, job.attempt_count) == (JobState.CANCELLED, 0)
    assert platform.cluster.started == []


async def test_a_job_that_waits_to_be_tried_again_is_cancelled(platform: Platform) -> None:
    server = await running(platform)
    await platform.fail(RUN)
    assert (await platform.job()).state is JobState.QUEUED
    await platform.cancel()
    platform.clock.pass_seconds(60)
    await server.round()
    assert (await platform.job()).state is JobState.CANCELLED
    assert platform.cluster.started == [RUN]


async def test_a_job_that_was_admitted_but_not_launched_is_never_launched(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.admit.once()
    await platform.cancel()
    await server.launch.once()
    await server.stop.once()
    assert platform.cluster.started == []
    assert (await platform.job()).state is JobState.CANCELLED


async def test_a_job_whose_process_has_not_called_yet_is_stopped_without_grace(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.round()
    await platform.cancel()
    await server.stop.once()
    await server.reap.once()
    assert (await platform.job()).state is JobState.CANCELLED
    assert platform.cluster.runs[RUN].status is RunStatus.STOPPED


async def test_a_process_that_listens_stops_by_itself(platform: Platform) -> None:
    server = await running(platform)
    await platform.cancel()
    await server.round()
    assert await platform.report(RUN), "it is told to stop"
    await platform.fail(RUN, EndCause.CANCELLED)
    job = await platform.job()
    assert (job.state, job.error) == (JobState.CANCELLED, None)
    platform.cluster.end(RUN, RunStatus.SUCCEEDED)
    await server.round()
    assert platform.cluster.runs == {}
    await check_invariants(platform, [UID])


async def test_a_process_that_does_not_listen_is_ended_after_the_grace(platform: Platform) -> None:
    server = await running(platform)
    await platform.cancel()
    platform.clock.pass_seconds(4)
    await server.round()
    assert (await platform.job()).state is JobState.CANCELLING
    platform.clock.pass_seconds(1)
    await server.round()
    assert (await platform.job()).state is JobState.CANCELLED
    assert platform.cluster.alive() == []
    await check_invariants(platform, [UID])


async def test_a_deaf_process_that_reports_on_is_ended_all_the_same(platform: Platform) -> None:
    server = await running(platform)
    await platform.cancel()
    for number in range(1, 4):
        platform.clock.pass_seconds(2)
        await platform.report(RUN, number)
    await server.round()
    assert (await platform.job()).state is JobState.CANCELLED


async def test_a_job_that_was_done_before_it_could_stop_has_succeeded(platform: Platform) -> None:
    server = await running(platform)
    await platform.cancel()
    await platform.complete(RUN)
    platform.clock.pass_seconds(60)
    await server.round()
    assert (await platform.job()).state is JobState.SUCCEEDED


async def test_a_process_that_dies_while_it_is_stopping_is_not_tried_again(platform: Platform) -> None:
    server = await running(platform)
    await platform.cancel()
    platform.cluster.end(RUN, RunStatus.FAILED, "killed")
    await server.watch.once()
    assert (await platform.job()).state is JobState.CANCELLED


async def test_a_job_whose_lease_ended_while_it_was_cancelled_is_cancelled_once(platform: Platform) -> None:
    server = await running(platform)
    await platform.cancel()
    await pass_lease(platform, server)
    await server.round()
    assert [event.state for event in await platform.events()].count(JobState.CANCELLED) == 1
    await check_invariants(platform, [UID])
