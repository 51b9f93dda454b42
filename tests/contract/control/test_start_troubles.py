"""What the cluster says of a run reaches the job's user, on both databases: before it starts, and when it was ended."""

from dataclasses import replace

from tests.contract.control.platform import UID, Platform, Server, check_invariants
from tests.contract.control.shared import admitted
from tests.contract.store import samples

from trellis.server.app.explanations import explain_tuning_job
from trellis.server.app.hosts import RunStatus
from trellis.server.control.attempts import submission_id_for
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode
from trellis.server.domain.tuning_job import EventLevel, JobState, QueueCode, QueueReason

RUN = submission_id_for("here", UID, 1)
NO_NODE = RunTrouble(
    TroubleCode.UNSCHEDULABLE, "A worker of the run waits for a node: none has 4 of nvidia.com/gpu free."
)
NO_IMAGE = RunTrouble(
    TroubleCode.IMAGE_PULL, "A worker of the run waits for its image 'ray:1', which can't be fetched."
)


async def starting(platform: Platform) -> Server:
    """A server, and a job whose run has been submitted and has not called."""
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.round()
    assert (await platform.job()).state is JobState.STARTING
    return server


async def warnings(platform: Platform) -> list[str]:
    return [event.message for event in await platform.events() if event.level is EventLevel.WARNING]


async def test_what_keeps_a_run_from_starting_is_told_once_a_change(platform: Platform) -> None:
    server = await starting(platform)
    await server.watch_starts.once()
    assert (await platform.job()).queue_reason is None
    platform.cluster.runs[RUN].trouble = NO_NODE
    for _ in range(3):
        await server.watch_starts.once()
    job = await platform.job()
    assert job.queue_reason == QueueReason(QueueCode.CLUSTER, NO_NODE.message)
    revision = job.revision
    await platform.server().watch_starts.once()
    assert (await platform.job()).revision == revision, "another server has nothing new to say"
    platform.cluster.runs[RUN].trouble = NO_IMAGE
    await server.watch_starts.once()
    told = [f"It can't start yet: {trouble.message}" for trouble in (NO_NODE, NO_IMAGE)]
    assert await warnings(platform) == told
    found = await explain_tuning_job(platform.app, job.name)
    assert [(reason.code, reason.message) for reason in found.explanation.reasons] == [
        (QueueCode.CLUSTER, NO_IMAGE.message)
    ]
    await check_invariants(platform, [UID])


async def test_a_trouble_that_passes_is_told_no_more(platform: Platform) -> None:
    server = await starting(platform)
    platform.cluster.runs[RUN].trouble = NO_NODE
    await server.watch_starts.once()
    platform.cluster.runs[RUN].trouble = None
    await server.watch_starts.once()
    assert (await platform.job()).queue_reason is None
    assert len(await warnings(platform)) == 1
    platform.cluster.runs[RUN].trouble = NO_NODE
    await server.watch_starts.once()
    await platform.begin(RUN)
    job = await platform.job()
    assert (job.state, job.queue_reason) == (JobState.RUNNING, None)
    await server.watch_starts.once()
    assert (await platform.job()).queue_reason is None


async def test_a_cluster_that_does_not_answer_takes_nothing_back(platform: Platform) -> None:
    server = await starting(platform)
    platform.cluster.runs[RUN].trouble = NO_NODE
    await server.watch_starts.once()
    platform.cluster.reachable = False
    await server.watch_starts.once()
    found = (await platform.job()).queue_reason
    assert found is not None
    assert found.code is QueueCode.CLUSTER


async def test_jobs_of_a_trainer_that_can_not_start_are_told_too(platform: Platform) -> None:
    server = await admitted(platform)
    (run,) = platform.cluster.alive()
    platform.cluster.runs[run].trouble = NO_NODE
    await server.watch_starts.once()
    found = (await platform.job()).queue_reason
    assert found == QueueReason(QueueCode.CLUSTER, NO_NODE.message)


async def test_a_start_that_waits_for_a_node_is_no_failure_before_the_deadline(platform: Platform) -> None:
    server = await starting(platform)
    platform.cluster.runs[RUN].trouble = NO_NODE
    for _ in range(9):
        platform.clock.pass_seconds(30)
        await server.watch.once()
        assert (await platform.job()).state is JobState.STARTING
    for _ in range(3):
        platform.clock.pass_seconds(15)
        await server.watch.once()
    job = await platform.job()
    assert (job.state, job.failure_count) == (JobState.QUEUED, 1)
    assert f"did not start within 300 s. {NO_NODE.message}" in (await warnings(platform))[-1]


async def test_the_deadline_is_the_operators(platform: Platform) -> None:
    platform.settings = replace(platform.settings, start_timeout=platform.settings.start_timeout * 6)
    server = await starting(platform)
    for _ in range(30):
        platform.clock.pass_seconds(50)
        await server.watch.once()
    assert (await platform.job()).state is JobState.STARTING


OUT_OF_MEMORY = RunTrouble(
    TroubleCode.OUT_OF_MEMORY, "A worker of the run was ended, as it took more memory than its limit of 16Gi."
)


async def test_one_that_was_ended_for_its_memory_is_tried_with_less(platform: Platform) -> None:
    server = await starting(platform)
    await platform.begin(RUN)
    platform.cluster.runs[RUN].trouble = OUT_OF_MEMORY
    platform.cluster.end(RUN, RunStatus.FAILED)
    await server.watch.once()
    job = await platform.job()
    assert (job.state, job.memory_halvings, job.failure_count, job.retry_time) == (JobState.QUEUED, 1, 0, None)
    assert OUT_OF_MEMORY.message in (await warnings(platform))[-1]
    assert "with 1/2 of the work in one pass" in (await warnings(platform))[-1]


async def test_a_worker_that_was_ended_for_its_memory_is_heard_of_after_its_driver_gave_up(platform: Platform) -> None:
    server = await starting(platform)
    await platform.begin(RUN)
    platform.cluster.runs[RUN].trouble = OUT_OF_MEMORY
    await platform.fail(RUN)
    assert (await platform.job()).memory_halvings == 0, "the driver saw a worker die, and does not know of what"
    for _ in range(2):
        await server.reap.once()
    job = await platform.job()
    assert (job.state, job.memory_halvings, job.failure_count) == (JobState.QUEUED, 1, 1)
    said = f"Of attempt 1 the cluster says: {OUT_OF_MEMORY.message} The job goes on with 1/2 of the work in one pass."
    assert (await warnings(platform)).count(said) == 1
    await check_invariants(platform, [UID])


async def test_one_that_the_cluster_ended_is_tried_again_and_told_why(platform: Platform) -> None:
    server = await starting(platform)
    await platform.begin(RUN)
    platform.cluster.runs[RUN].trouble = RunTrouble(
        TroubleCode.EVICTED, "A worker of the run was ended to relieve its node."
    )
    platform.cluster.end(RUN, RunStatus.FAILED)
    await server.watch.once()
    job = await platform.job()
    assert (job.state, job.memory_halvings, job.failure_count) == (JobState.QUEUED, 0, 1)
    assert (
        "the cluster says FAILED. A worker of the run was ended to relieve its node." in (await warnings(platform))[-1]
    )
    await check_invariants(platform, [UID])
