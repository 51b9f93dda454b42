"""What the chart lets its server do is what the server does: all of that, and nothing else."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helm_chart import Rendered, granted, read_settings, render, rules
from tests.job_cluster_fake import FakeJobCluster
from tests.kube.rig import Kube
from tests.kuberay_settings import a_run

from trellis.errors import Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.engines import RayServiceApplications
from trellis.server.clusters.kuberay.jobs import KubeRayCluster
from trellis.server.clusters.kuberay.resources import CONFIG_MAPS, RAY_JOBS, SECRETS
from trellis.server.clusters.kuberay.settings import KubeRaySettings
from trellis.server.clusters.kuberay.standing import KubeRayStanding
from trellis.server.clusters.serve_applications import DashboardApplications

RUN = a_run(entrypoint=("true",), worker_gpus=0.0)


@pytest.fixture(scope="module", params=["laptop", "production"])
def chart(request: pytest.FixtureRequest) -> Rendered:
    return render(request.param, "--namespace", "trellis")


@pytest.fixture
def settings(chart: Rendered, cluster: Kube, tmp_path: Path) -> KubeRaySettings:
    """Those of the chart, whose Role the server has from now on."""
    found = read_settings(chart, tmp_path)
    body = chart.one("ConfigMap", f"{chart.name}-ray")
    cluster.store.create(CONFIG_MAPS, "trellis", {**body, "metadata": {"name": body["metadata"]["name"]}})
    for name in found.jobs.worker.environment_from_secrets:
        metadata = {"name": name}
        cluster.store.create(SECRETS, "trellis", {"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
    cluster.grant(rules(chart, "server"))
    return found


async def live(api: KubeApi, settings: KubeRaySettings) -> None:
    """Everything that a server does there, once."""
    standing, jobs = KubeRayStanding(api, settings), KubeRayCluster(api, settings, FakeJobCluster())
    try:
        await standing.keep()
        await KubeRayStanding(api, replace(settings, labels={**settings.labels, "changed": "yes"})).keep()
        engines = RayServiceApplications(api, settings, DashboardApplications("http://nowhere"))
        await engines.declare({"applications": [{"name": "trellis-tiny", "import_path": "a:b"}]})
        await jobs.submit(RUN)
        async with asyncio.timeout(60):
            while (await jobs.status(RUN.submission_id)).status is not RunStatus.SUCCEEDED:
                await asyncio.sleep(0.05)
        assert await jobs.list() == []
        await jobs.log_tail(RUN.submission_id, 100)
        stays = replace(RUN, submission_id="trellis-stays-1", entrypoint=("sleep", "60"))
        await jobs.submit(stays)
        await jobs.stop(stays.submission_id)
        for run in (RUN, stays):
            async with asyncio.timeout(60):
                while (await jobs.status(run.submission_id)).status is not RunStatus.UNKNOWN:
                    await jobs.forget(run.submission_id)
                    await asyncio.sleep(0.05)
    finally:
        await jobs.close()


async def test_the_role_is_enough_and_not_more(
    api: KubeApi, cluster: Kube, settings: KubeRaySettings, chart: Rendered
) -> None:
    assert settings.network_policies
    await live(api, settings)
    made = {("ray.io", kind, "create") for kind in ("rayclusters", "rayservices")}  # by an apply: see below
    assert {*cluster.server.asked, *made} == granted(chart, "server")


async def test_what_an_apply_makes_needs_leave_to_create(
    api: KubeApi, cluster: Kube, settings: KubeRaySettings, chart: Rendered
) -> None:
    fewer = [rule for rule in rules(chart, "server") if rule["resources"] != ["rayclusters", "rayservices"]]
    cluster.grant(fewer)
    with pytest.raises(Unavailable, match=r"may not patch rayclusters.*give its service account a Role"):
        await KubeRayStanding(api, settings).keep()


async def test_the_role_names_what_it_can(api: KubeApi, cluster: Kube, settings: KubeRaySettings) -> None:
    """Another installation's clusters and settings in the same namespace are none of its business."""
    another = replace(settings, name="another", owner="")
    with pytest.raises(Unavailable, match="may not get rayclusters"):
        await KubeRayStanding(api, another).keep()
    cluster.store.create(
        CONFIG_MAPS, "trellis", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}}
    )
    with pytest.raises(Unavailable, match="may not get configmaps"):
        await api.get(CONFIG_MAPS, "theirs")
    assert (await api.list(RAY_JOBS)).items == ()
