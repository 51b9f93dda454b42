"""Attempts with nodes of their own, and trainers on a cluster that stays: neither waits for the other."""

from dataclasses import replace

from tests.contract.control.platform import UID, Platform, Server
from tests.contract.store import samples
from tests.job_cluster_fake import FakeJobCluster

from trellis.server.app.hosts import RunStatus
from trellis.server.control.attempts import submission_id_for
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode
from trellis.server.domain.tuning_job import JobState

RUN = submission_id_for("here", UID, 1)


def apart(platform: Platform) -> tuple[Server, FakeJobCluster]:
    """A server whose attempts run elsewhere than its trainers."""
    elsewhere = FakeJobCluster()
    return Server(replace(platform.control(), apart=elsewhere)), elsewhere


async def test_an_attempt_starts_and_ends_though_the_trainers_cluster_is_away(platform: Platform) -> None:
    server, elsewhere = apart(platform)
    await platform.add_jobs(samples.alone())
    platform.cluster.reachable = False
    for step in (server.admit, server.launch):
        await step.once()
    assert elsewhere.alive() == [RUN]
    assert platform.cluster.runs == {}
    elsewhere.runs[RUN].trouble = RunTrouble(TroubleCode.QUOTA, "The run waits in the cluster's queue.")
    await server.watch_starts.once()
    assert (await platform.job()).queue_reason is not None
    elsewhere.end(RUN, RunStatus.FAILED)
    for step in (server.watch, server.reap):
        await step.once()
    assert (await platform.job()).state is JobState.QUEUED
    assert elsewhere.runs == {}


async def test_a_start_that_fails_is_not_put_down_to_the_other_cluster(platform: Platform) -> None:
    server, _ = apart(platform)
    await platform.add_jobs(samples.alone())
    await server.admit.once()
    await server.launch.once()
    platform.cluster.reachable = False
    for _ in range(12):
        platform.clock.pass_seconds(29)
        await server.watch.once()
    assert "did not start within 300 s." in (await platform.events())[-1].message


async def test_jobs_of_trainers_are_asked_of_their_own_cluster(platform: Platform) -> None:
    server, elsewhere = apart(platform)
    await platform.add_jobs(samples.job())
    await server.round()
    (run,) = platform.cluster.alive()
    assert elsewhere.runs == {}
    elsewhere.reachable = False
    platform.cluster.runs[run].trouble = RunTrouble(TroubleCode.IMAGE_PULL, "No image.")
    await server.watch_starts.once()
    found = (await platform.job()).queue_reason
    assert found is not None
    assert found.message == "No image."
