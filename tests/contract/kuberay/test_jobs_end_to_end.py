"""Jobs with a Ray cluster of their own through the control loops, over the stand-in of Kubernetes: what their users hear."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.contract.control.platform import UID, Platform, Server, check_invariants
from tests.contract.store import samples
from tests.job_cluster_fake import FakeJobCluster, Run
from tests.kube.events import say
from tests.kube.rig import Kube
from tests.kuberay_settings import LAPTOP

from trellis.server.app.hosts import RunRequest
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.jobs import KubeRayCluster
from trellis.server.clusters.kuberay.resources import PODS, RAY_CLUSTERS, RAY_JOBS, SECRETS, Object, name_of
from trellis.server.control.attempts import submission_id_for
from trellis.server.domain.tuning_job import JobState, QueueCode

RUN, SECOND = (submission_id_for("here", UID, number) for number in (1, 2))
SCRIPT = """#!/bin/sh
echo "the first words of $TRELLIS_RUN"
while [ ! -e {gate} ]; do sleep 0.05; done
echo "the last words"
"""


class OnKubernetes(Platform):
    """Runs go to Kubernetes, as programs that wait at a gate; what was submitted is kept for who plays their part."""

    def __init__(self, units: UnitOfWorkFactory, folder: Path, kube: Kube, api: KubeApi) -> None:
        self.gate = folder / "gate"
        program = folder / "python"
        program.write_text(SCRIPT.format(gate=self.gate))
        program.chmod(0o755)
        super().__init__(units, folder / "objects", python=str(program))
        self.kube = kube
        self.cluster = Recording(api)  # type: ignore[assignment]

    def pods(self, container: str) -> list[Object]:
        """Of the runs, by what they are for."""
        every = self.kube.store.list(PODS, "trellis")
        return [pod for pod in every if pod["spec"]["containers"][0]["name"] == container]

    async def until(self, is_so: Callable[[], Awaitable[bool] | bool], *steps: Callable[[], Awaitable[object]]) -> None:
        """The loops go round until it is so."""
        async with asyncio.timeout(60.0):
            while True:
                found = is_so()
                if found if isinstance(found, bool) else await found:
                    return
                for step in steps:
                    await step()
                await asyncio.sleep(0.05)


class Recording(KubeRayCluster):
    """With what was submitted, as the fake has it."""

    def __init__(self, api: KubeApi) -> None:
        super().__init__(api, LAPTOP, FakeJobCluster())
        self.runs: dict[str, Run] = {}
        self.started: list[str] = []

    async def submit(self, request: RunRequest) -> None:
        if request.submission_id not in self.runs:
            self.runs[request.submission_id] = Run(request)
            self.started.append(request.submission_id)
        await super().submit(request)


@pytest.fixture
async def platform(
    sqlite_units: UnitOfWorkFactory, cluster: Kube, api: KubeApi, tmp_path: Path
) -> AsyncIterator[OnKubernetes]:
    made = OnKubernetes(sqlite_units, tmp_path, cluster, api)
    await made.prepare()
    await made.add_jobs(samples.alone())
    yield made
    await made.cluster.close()


async def started(platform: OnKubernetes) -> Server:
    """A server, and the job's run, which has been let to begin."""
    server = platform.server()
    await server.round()
    await platform.until(lambda: RUN in platform.kube.operator.started)
    await platform.begin(RUN)
    return server


async def is_in(platform: OnKubernetes, state: JobState) -> bool:
    return (await platform.job()).state is state


async def last_words(platform: OnKubernetes) -> str:
    return (await platform.events())[-1].message


async def test_a_job_from_its_admission_to_its_end(platform: OnKubernetes) -> None:
    server = await started(platform)
    (run,) = platform.kube.store.list(RAY_JOBS, "trellis")
    assert run["metadata"]["name"] == RUN
    assert "TRELLIS_ATTEMPT_TICKET" not in str(run), "it is in the Secret alone"
    assert len(platform.pods("ray-worker")) == 1
    await platform.complete(RUN)
    platform.gate.touch()
    await platform.until(lambda: not platform.kube.store.list(RAY_JOBS, "trellis"), server.watch.once, server.reap.once)
    assert await is_in(platform, JobState.SUCCEEDED)
    store = platform.kube.store
    await platform.until(lambda: not any(store.list(kind, "trellis") for kind in (RAY_CLUSTERS, SECRETS, PODS)))
    assert [attempt.cleaned_up for attempt in await platform.attempts()] == [True]
    await check_invariants(platform, [UID])


async def test_one_that_finds_no_node_explains_itself_and_starts_when_there_is_one(platform: OnKubernetes) -> None:
    platform.kube.kubelet.has_room = False
    server = platform.server()
    await server.round()

    async def explained() -> bool:
        return (await platform.job()).queue_reason is not None

    await platform.until(explained, server.watch_starts.once)
    reason = (await platform.job()).queue_reason
    assert reason is not None
    assert reason.code is QueueCode.CLUSTER
    assert "waits for a node: none has" in reason.message
    for pod in platform.pods("ray-head"):
        say(platform.kube.store, "trellis", pod, "Normal", "TriggeredScaleUp", "pod triggered scale-up: [{gpu 1->2}]")

    async def is_added() -> bool:
        return (await last_words(platform)).endswith("A node is being added.")

    await platform.until(is_added, server.watch_starts.once)
    assert await is_in(platform, JobState.STARTING), "that is no failure"
    platform.kube.kubelet.has_room = True
    await platform.until(lambda: RUN in platform.kube.operator.started)
    await platform.begin(RUN)
    assert (await platform.job()).queue_reason is None


async def test_a_worker_that_took_too_much_memory_is_told_so_and_tried_with_less(platform: OnKubernetes) -> None:
    server = await started(platform)
    (worker,) = platform.pods("ray-worker")
    platform.kube.kubelet.end("trellis", name_of(worker), "Failed", "OOMKilled", 137)
    (head,) = platform.pods("ray-head")
    await platform.kube.kubelet.kill(str(head["metadata"]["uid"]))

    async def is_queued() -> bool:
        return await is_in(platform, JobState.QUEUED)

    await platform.until(is_queued, server.watch.once)
    job = await platform.job()
    assert (job.memory_halvings, job.failure_count) == (1, 0)
    assert "took more memory than its limit of 16Gi" in await last_words(platform)
    await platform.until(lambda: SECOND in platform.kube.operator.started, server.round)
    log = await platform.log()
    assert "as the cluster kept it" in log
    assert "the first words" in log
    assert "the last words" not in log


async def test_an_evicted_one_is_tried_again_and_told_why(platform: OnKubernetes) -> None:
    server = await started(platform)
    (worker,) = platform.pods("ray-worker")
    preempted = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "default-scheduler: preempting to accommodate a higher priority pod",
    }
    platform.kube.store.set_status(PODS, "trellis", name_of(worker), {"phase": "Failed", "conditions": [preempted]})
    (head,) = platform.pods("ray-head")
    await platform.kube.kubelet.kill(str(head["metadata"]["uid"]))

    async def is_queued() -> bool:
        return await is_in(platform, JobState.QUEUED)

    await platform.until(is_queued, server.watch.once)
    job = await platform.job()
    assert (job.memory_halvings, job.failure_count) == (0, 1)
    assert "to make room for something of a higher priority" in await last_words(platform)
    platform.clock.pass_seconds(2)
    await platform.until(lambda: SECOND in platform.kube.operator.started, server.round)
    await check_invariants(platform, [UID])


async def test_an_image_that_never_comes_fails_the_attempt_with_its_sentence(platform: OnKubernetes) -> None:
    platform.kube.kubelet.has_image = False
    server = platform.server()
    await server.round()
    await platform.until(lambda: len(platform.pods("ray-head")) == 1)

    async def is_waiting() -> bool:
        (head,) = platform.pods("ray-head")
        return bool(head.get("status", {}).get("containerStatuses"))

    await platform.until(is_waiting)
    for _ in range(21):
        platform.clock.pass_seconds(15)
        await server.watch.once()
    assert await is_in(platform, JobState.QUEUED)
    assert "did not start within 300 s." in await last_words(platform)
    assert "waits for its image 'trellis-ray:dev', which can't be fetched" in await last_words(platform)
