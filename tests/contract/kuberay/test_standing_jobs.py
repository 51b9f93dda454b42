"""Runs on the standing cluster: what keeps its pods from working is said of those that wait."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.job_cluster_fake import FakeJobCluster
from tests.kube.rig import Kube
from tests.kuberay_settings import LAPTOP, a_run

from trellis.errors import Unavailable
from trellis.server.app.hosts import RunReport, RunStatus
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.standing import KubeRayStanding
from trellis.server.clusters.kuberay.standing_jobs import StandingJobs
from trellis.server.domain.run_trouble import TroubleCode

SETTINGS = replace(LAPTOP, engines=None)
RUN = a_run(own_cluster=False)


@pytest.fixture
def ray() -> FakeJobCluster:
    return FakeJobCluster()


@pytest.fixture
async def jobs(ray: FakeJobCluster, api: KubeApi) -> AsyncIterator[StandingJobs]:
    one = StandingJobs(ray, api, SETTINGS, seconds=0.0)
    yield one
    await one.close()


async def settled(jobs: StandingJobs, *, troubled: bool) -> RunReport:
    async with asyncio.timeout(60.0):
        while True:
            try:
                report = await jobs.status(RUN.submission_id)
            except Unavailable:
                await asyncio.sleep(0.05)
                continue
            if (report.trouble is not None) is troubled:
                return report
            await asyncio.sleep(0.05)


async def test_one_that_waits_for_workers_says_for_what(
    jobs: StandingJobs, ray: FakeJobCluster, cluster: Kube, api: KubeApi
) -> None:
    cluster.kubelet.has_room = False
    await KubeRayStanding(api, SETTINGS).keep()
    await jobs.submit(RUN)
    report = await settled(jobs, troubled=True)
    assert report.status is RunStatus.PENDING
    assert report.trouble is not None
    assert report.trouble.code is TroubleCode.UNSCHEDULABLE
    assert "of the trainers' cluster waits for a node" in report.trouble.message
    cluster.kubelet.has_room = True
    assert (await settled(jobs, troubled=False)).status is RunStatus.PENDING
    ray.runs[RUN.submission_id].status = RunStatus.RUNNING
    cluster.kubelet.has_room = False
    assert (await jobs.status(RUN.submission_id)).trouble is None


async def test_a_head_that_is_not_there_yet_is_no_lost_run(
    jobs: StandingJobs, ray: FakeJobCluster, cluster: Kube, api: KubeApi
) -> None:
    ray.reachable = False
    with pytest.raises(Unavailable):
        await jobs.status(RUN.submission_id)
    cluster.kubelet.has_image = False
    await KubeRayStanding(api, SETTINGS).keep()
    report = await settled(jobs, troubled=True)
    assert report.status is RunStatus.PENDING, "a run that is unknown would be started, or taken for lost"
    assert report.trouble is not None
    assert report.trouble.code is TroubleCode.IMAGE_PULL


async def test_many_who_ask_are_told_what_was_seen_lately(ray: FakeJobCluster, cluster: Kube, api: KubeApi) -> None:
    now = [100.0]
    jobs = StandingJobs(ray, api, SETTINGS, clock=lambda: now[0])
    await jobs.submit(RUN)
    for _ in range(5):
        await jobs.status(RUN.submission_id)
    assert len(cluster.server.asked) == 1
    now[0] += 5.0
    await jobs.status(RUN.submission_id)
    assert len(cluster.server.asked) == 2


async def test_what_kubernetes_does_not_say_is_no_fault(jobs: StandingJobs, ray: FakeJobCluster, cluster: Kube) -> None:
    await jobs.submit(RUN)
    await cluster.server.stop()
    assert await jobs.status(RUN.submission_id) == RunReport(RunStatus.PENDING)
    assert await jobs.list() == [RUN.submission_id]
