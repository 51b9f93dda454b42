"""What ended a pod of the trainers' cluster is known though the pod is gone, of that pod, and of its time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.kube.events import say
from tests.kube.rig import Kube
from tests.kuberay_settings import LAPTOP
from tests.pod_samples import event, pod, running, target

from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.ended_pods import EndedPods
from trellis.server.clusters.kuberay.pods import COMPONENT
from trellis.server.clusters.kuberay.resources import PODS, name_of
from trellis.server.clusters.kuberay.standing import KubeRayStanding
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode

SETTINGS = replace(LAPTOP, engines=None)
SPACE = "trellis"
HOUR = timedelta(hours=1)


@pytest.fixture
async def ended(api: KubeApi) -> AsyncIterator[EndedPods]:
    one = EndedPods(api, SETTINGS)
    yield one
    await one.close()


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.02)


async def told(ended: EndedPods, host: str, since: datetime) -> RunTrouble:
    async with asyncio.timeout(60):
        while (found := await ended.ended(host, since)) is None:
            await asyncio.sleep(0.02)
    return found


async def workers(api: KubeApi, cluster: Kube) -> list[str]:
    await KubeRayStanding(api, SETTINGS).keep()
    await until(lambda: len(ready(cluster)) > 1)
    return sorted(name for name in ready(cluster) if "-head" not in name)


def ready(cluster: Kube) -> list[str]:
    return [name_of(one) for one in cluster.store.list(PODS, SPACE) if cluster.kubelet.is_ready(one)]


async def test_a_worker_that_was_killed_for_its_memory_and_is_gone(
    api: KubeApi, cluster: Kube, ended: EndedPods
) -> None:
    (name, *_) = await workers(api, cluster)
    ended.start()
    await ended.until_fresh()
    now = datetime.now(UTC)
    assert await ended.ended(name, now - HOUR) is None
    cluster.kubelet.end(SPACE, name, "Failed", "OOMKilled", 137)
    cluster.store.remove((PODS, SPACE, name))  # as KubeRay does at once, to make another one
    found = await told(ended, name, now - timedelta(seconds=2))
    assert await ended.ended(name, now - HOUR, now - timedelta(seconds=2)) is None, "it had not ended by then"
    assert await ended.ended(name, now - HOUR, now + HOUR) == found
    assert found.code is TroubleCode.OUT_OF_MEMORY
    assert found.message.startswith(
        "A worker of the trainers' cluster was ended, as it took more memory than its limit"
    )
    assert await ended.ended("another", now - HOUR) is None, "others that ran elsewhere ended for reasons of their own"
    assert await ended.ended("", now - HOUR) == found
    assert await ended.ended(name, now + HOUR) is None


async def test_a_pod_that_was_gone_before_anything_but_an_event_was_seen(cluster: Kube, ended: EndedPods) -> None:
    ended.start()
    await ended.until_fresh()
    gone = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trellis-trainers-workers-worker-c5r8t", "uid": "1"},
    }
    say(cluster.store, SPACE, gone, "Normal", "TaintManagerEviction", "Marking for deletion Pod trellis/x")
    found = await told(ended, "trellis-trainers-workers-worker-c5r8t", datetime.now(UTC) - HOUR)
    assert found.code is TroubleCode.RECLAIMED
    assert found.message == "A worker of the trainers' cluster was ended, as its node was taken back or emptied."


def worker(name: str, **status: Any) -> dict[str, Any]:
    one = pod(name=name, **status)
    one["metadata"]["labels"] = {COMPONENT: "trainers"}
    return one


async def test_times_are_those_of_kubernetes(ended: EndedPods) -> None:
    restarted = running(
        "ray-worker", lastState={"terminated": {"reason": "OOMKilled", "finishedAt": "2026-11-21T20:00:00Z"}}
    )
    ended._hear_pod(worker("a", phase="Running", containerStatuses=restarted))
    evicted = [{**target("PreemptionByScheduler")[0], "lastTransitionTime": "2026-11-21T21:00:00Z"}]
    ended._hear_pod(worker("b", phase="Failed", conditions=evicted))
    ended._hear_pod(worker("c", phase="Failed"))
    ended._hear_event(event("Evicted", "Spot interruption", "trellis-trainers-workers-worker-d", at="22:00:00"))
    ended._hear_event(event("Evicted", "The node was low on resource: memory.", "trellis-engines-x"))
    ended._hear_event(event("Pulled", "Image", "trellis-trainers-workers-worker-e"))
    eight = datetime(2026, 11, 21, 20, tzinfo=UTC)

    async def codes(host: str, since: datetime) -> str | None:
        found = await ended.ended(host, since)
        return found.code.value if found else None

    assert await codes("a", eight) == "OUT_OF_MEMORY"
    assert await codes("a", eight + timedelta(seconds=1)) is None, "the last time is not this time"
    assert await codes("b", eight + HOUR) == "EVICTED"
    assert await codes("c", eight) is None
    assert await codes("", eight + 2 * HOUR) == "RECLAIMED"
    assert await codes("", eight + 3 * HOUR) is None
