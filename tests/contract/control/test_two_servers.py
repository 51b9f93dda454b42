"""Two servers work on one database at once: no row is worked twice, no capacity is given twice."""

import asyncio

from tests.contract.control.platform import Platform, check_invariants
from tests.contract.store import samples

from trellis.errors import Aborted, Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.control.loop import Step
from trellis.server.domain.tuning_job import JobState

JOBS = 8


async def patiently(step: Step) -> None:
    """As a loop does: what failed because somebody else was there is tried again."""
    for _ in range(20):
        try:
            await step.once()
            return
        except (Aborted, Unavailable):
            continue
    raise AssertionError(f"{step.name} never came through")


async def test_two_servers_share_the_work(platform: Platform, other_units: UnitOfWorkFactory) -> None:
    servers = [platform.server(), platform.server(other_units)]
    uids = [f"uid-acme-{number}" for number in range(1, JOBS + 1)]
    await platform.add_jobs(*(samples.alone(number) for number in range(1, JOBS + 1)))
    most = 0
    for _ in range(60):
        for steps in zip(*(server.steps for server in servers), strict=True):
            await asyncio.gather(*(patiently(step) for step in steps))
        await check_invariants(platform, uids)
        most = max(most, len(platform.cluster.alive()))
        for run in platform.cluster.alive():
            await platform.begin(run)
            await platform.complete(run)
            platform.cluster.end(run, RunStatus.SUCCEEDED)
        platform.clock.pass_seconds(1)
        jobs = [await platform.job(uid) for uid in uids]
        if all(job.ended for job in jobs):
            break
    assert [(job.state, job.attempt_count) for job in jobs] == [(JobState.SUCCEEDED, 1)] * JOBS
    assert sorted(platform.cluster.started) == sorted(f"trellis-here-{uid}-1" for uid in uids)
    assert most == 2


async def test_one_of_two_ends_a_dead_attempt(platform: Platform, other_units: UnitOfWorkFactory) -> None:
    servers = [platform.server(), platform.server(other_units)]
    await platform.add_jobs(samples.alone())
    await servers[0].round()
    platform.cluster.end("trellis-here-uid-acme-1-1", RunStatus.FAILED, "killed", output="words\n")
    await asyncio.gather(*(patiently(server.watch) for server in servers))
    assert [event.state for event in await platform.events()].count(JobState.QUEUED) == 1
    await asyncio.gather(*(patiently(server.reap) for server in servers))
    assert (await platform.log()).count("words") == 1
    await check_invariants(platform, ["uid-acme-1"])
