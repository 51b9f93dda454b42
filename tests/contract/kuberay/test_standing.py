"""The clusters that stay are kept as the settings say, and others' words in them are left alone."""

import asyncio
import copy
from dataclasses import replace
from typing import Any

import pytest
from tests.kube.rig import Kube
from tests.kuberay_settings import LAPTOP, PRODUCTION

from trellis.errors import Unavailable
from trellis.server.app.hosts import KeptCluster
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.resources import CONFIG_MAPS, RAY_CLUSTERS, RAY_SERVICES, Object
from trellis.server.clusters.kuberay.settings import ClusterSettings, KubeRaySettings, PodSettings, WorkerGroup
from trellis.server.clusters.kuberay.standing import NOTHING_SERVED, KubeRayStanding

GROUP = WorkerGroup("gpu", PodSettings(gpus=1, node_selector={"pool": "gpu"}), 1, 4)
SETTINGS = replace(LAPTOP, trainers=ClusterSettings(groups=(GROUP,)))
TRAINERS, ENGINES = "trellis-trainers", "trellis-engines"


def standing(api: KubeApi, settings: KubeRaySettings = SETTINGS) -> KubeRayStanding:
    return KubeRayStanding(api, settings)


async def keep(api: KubeApi, settings: KubeRaySettings = SETTINGS) -> dict[str, str]:
    return {one.name: one.change for one in await standing(api, settings).keep()}


def trainers(cluster: Kube) -> Object:
    return copy.deepcopy(cluster.store.get(RAY_CLUSTERS, "trellis", TRAINERS))


def change(cluster: Kube, edit: Any) -> None:
    """Somebody else changes the trainers' cluster."""
    one = trainers(cluster)
    edit(one)
    cluster.store.replace(RAY_CLUSTERS, "trellis", TRAINERS, one)


async def test_what_is_missing_is_made_and_then_left_alone(api: KubeApi, cluster: Kube) -> None:
    assert await keep(api) == {TRAINERS: "made", ENGINES: "made"}
    version = cluster.store.get(RAY_SERVICES, "trellis", ENGINES)["spec"]
    assert version["serveConfigV2"] == NOTHING_SERVED
    for _ in range(3):
        assert await keep(api) == {TRAINERS: "", ENGINES: ""}


async def test_a_new_one_of_which_kuberay_speaks_meanwhile_serves_nothing(
    api: KubeApi, cluster: Kube, monkeypatch: Any
) -> None:
    cluster.operator.works = False
    get, generations = api.get, iter((1, 2))

    async def and_then(resource: Any, name: str) -> Object | None:
        found = await get(resource, name)
        if found is not None and name == ENGINES and (generation := next(generations, None)):
            cluster.store.set_status(RAY_SERVICES, "trellis", ENGINES, {"observedGeneration": generation})
        return found

    monkeypatch.setattr(api, "get", and_then)
    await keep(api)
    assert cluster.store.get(RAY_SERVICES, "trellis", ENGINES)["spec"]["serveConfigV2"] == NOTHING_SERVED


async def test_two_servers_at_once_make_one_of_each(cluster: Kube) -> None:
    apis = [cluster.api(), cluster.api()]
    try:
        await asyncio.gather(*(keep(api) for api in apis), return_exceptions=True)
        assert await keep(apis[0]) == {TRAINERS: "", ENGINES: ""}
    finally:
        for api in apis:
            await api.close()
    assert len(cluster.store.list(RAY_SERVICES, "trellis")) == 1
    assert [one["metadata"]["name"] for one in cluster.store.list(RAY_CLUSTERS, "trellis")].count(TRAINERS) == 1


async def test_what_was_deleted_comes_back(api: KubeApi, cluster: Kube) -> None:
    await keep(api)
    cluster.store.delete(RAY_CLUSTERS, "trellis", TRAINERS)
    assert await keep(api) == {TRAINERS: "made", ENGINES: ""}


async def test_what_somebody_changed_is_corrected(api: KubeApi, cluster: Kube) -> None:
    await keep(api)

    def spoil(one: Object) -> None:
        one["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = "evil:1"
        one["metadata"]["labels"]["app.kubernetes.io/component"] = "engines"

    change(cluster, spoil)
    assert (await keep(api))[TRAINERS] == "corrected"
    one = trainers(cluster)
    assert one["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] == "trellis-ray:dev"
    assert one["metadata"]["labels"]["app.kubernetes.io/component"] == "trainers"
    assert (await keep(api))[TRAINERS] == ""


async def test_new_settings_are_written_and_old_ones_go(api: KubeApi, cluster: Kube) -> None:
    await keep(api)
    group = replace(GROUP, pod=PodSettings(gpus=2), max_replicas=8)
    changed = replace(SETTINGS, trainers=ClusterSettings(groups=(group,)))
    assert await keep(api, changed) == {TRAINERS: "corrected", ENGINES: ""}
    (found,) = trainers(cluster)["spec"]["workerGroupSpecs"]
    assert found["maxReplicas"] == 8
    assert "nodeSelector" not in found["template"]["spec"]
    assert await keep(api, changed) == {TRAINERS: "", ENGINES: ""}


async def test_what_the_autoscaler_and_kueue_write_stays(api: KubeApi, cluster: Kube) -> None:
    await keep(api)

    def scale(one: Object) -> None:
        (group,) = one["spec"]["workerGroupSpecs"]
        group.update(replicas=3, scaleStrategy={"workersToDelete": ["a"]}, numOfHosts=1)
        group["template"]["spec"]["nodeSelector"]["flavor"] = "spot"
        one["spec"]["suspend"] = False

    change(cluster, scale)
    assert (await keep(api))[TRAINERS] == ""
    changed = replace(SETTINGS, image="trellis-ray:new")
    assert (await keep(api, changed))[TRAINERS] == "corrected"
    spec = trainers(cluster)["spec"]
    (group,) = spec["workerGroupSpecs"]
    assert (group["replicas"], group["scaleStrategy"], spec["suspend"]) == (3, {"workersToDelete": ["a"]}, False)


async def test_more_workers_than_the_settings_allow_are_cut(api: KubeApi, cluster: Kube) -> None:
    await keep(api)

    def scale(one: Object) -> None:
        one["spec"]["workerGroupSpecs"][0]["replicas"] = 4

    change(cluster, scale)
    fewer = replace(SETTINGS, trainers=ClusterSettings(groups=(replace(GROUP, max_replicas=2),)))
    assert (await keep(api, fewer))[TRAINERS] == "corrected"
    assert trainers(cluster)["spec"]["workerGroupSpecs"][0]["replicas"] == 2


async def test_what_changed_meanwhile_is_looked_at_again(api: KubeApi, cluster: Kube, monkeypatch: Any) -> None:
    await keep(api)
    changed = replace(SETTINGS, image="trellis-ray:new")
    get, sizes = api.get, iter((3, 2))

    async def and_then(resource: Any, name: str) -> Object | None:
        found = await get(resource, name)
        if name == TRAINERS and (size := next(sizes, None)):
            change(cluster, lambda one: one["spec"]["workerGroupSpecs"][0].update(replicas=size))
        return found

    monkeypatch.setattr(api, "get", and_then)
    assert (await keep(api, changed))[TRAINERS] == "corrected"
    assert trainers(cluster)["spec"]["workerGroupSpecs"][0]["replicas"] == 2


async def test_what_engines_run_is_not_overwritten(api: KubeApi, cluster: Kube) -> None:
    await keep(api)
    served = '{"applications": [{"name": "trellis-tiny"}]}'
    await api.patch(RAY_SERVICES, ENGINES, {"spec": {"serveConfigV2": served}})
    assert (await keep(api, replace(SETTINGS, image="trellis-ray:new")))[ENGINES] == "corrected"
    assert cluster.store.get(RAY_SERVICES, "trellis", ENGINES)["spec"]["serveConfigV2"] == served


async def test_anothers_cluster_is_left_alone(api: KubeApi, cluster: Kube) -> None:
    await keep(api)
    change(cluster, lambda one: one["metadata"]["labels"].update({"app.kubernetes.io/instance": "other"}))
    with pytest.raises(Unavailable, match="Another's RayCluster 'trellis-trainers' is in the way"):
        await keep(api)


async def test_all_belongs_to_the_chart(api: KubeApi, cluster: Kube) -> None:
    owned = replace(SETTINGS, owner="trellis-kuberay")
    with pytest.raises(Unavailable, match="no ConfigMap 'trellis-kuberay'"):
        await keep(api, owned)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trellis-kuberay"}}
    cluster.store.create(CONFIG_MAPS, "trellis", body)
    assert await keep(api, owned) == {TRAINERS: "made", ENGINES: "made"}
    cluster.store.delete(CONFIG_MAPS, "trellis", "trellis-kuberay")
    async with asyncio.timeout(60.0):  # who collects it takes its time
        while cluster.store.list(RAY_CLUSTERS, "trellis"):
            await asyncio.sleep(0.05)


async def test_pods_that_find_no_node_are_told(api: KubeApi, cluster: Kube) -> None:
    one = standing(api, replace(PRODUCTION, namespace="trellis", owner="", engines=None))
    cluster.kubelet.has_room = False
    await one.keep()

    async def told() -> KeptCluster:
        while True:
            (kept,) = await one.keep()
            if kept.trouble is not None:
                return kept
            await asyncio.sleep(0.05)

    kept = await asyncio.wait_for(told(), 60.0)
    assert kept.trouble is not None
    assert kept.trouble.message.startswith(("A worker of the trainers' cluster waits", "The head of the trainers'"))
