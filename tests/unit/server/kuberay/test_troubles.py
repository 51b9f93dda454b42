"""What pods and events say, in our words: objects as Kubernetes, its autoscalers and the clouds write them."""

from typing import Any

import pytest
from tests.pod_samples import (
    HEAD,
    QUEUED,
    READY,
    RUN,
    SUSPENDED,
    WORKER,
    container,
    event,
    pod,
    running,
    target,
    unschedulable,
    waiting,
)

from trellis.server.clusters.kuberay.troubles import run_trouble
from trellis.server.domain.run_trouble import TroubleCode

NO_GPU = (
    "0/7 nodes are available: 3 Insufficient nvidia.com/gpu, 4 node(s) had untolerated taint {team: red}. "
    "preemption: 0/7 nodes are available: 7 Preemption is not helpful for scheduling."
)
WAITS = "A worker of the run waits for a node: "
NO_GPU_SAID = WAITS + "none has 4 of nvidia.com/gpu free."
PULL = 'Back-off pulling image "registry.example.com/ray:1": ErrImagePull: '
NOT_PULLED = "A worker of the run waits for its image 'registry.example.com/ray:1', which can't be fetched"
QUOTA = (
    'Failed to create worker Pod for the cluster trellis/x: pods "x-workers-worker-2" is forbidden: exceeded quota: '
    "compute, requested: requests.nvidia.com/gpu=4, used: requests.nvidia.com/gpu=14, limited: requests.nvidia.com/gpu=16"
)

TROUBLES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None, str, str]] = {
    "no GPU": ([pod(conditions=unschedulable(NO_GPU))], [], None, "UNSCHEDULABLE", NO_GPU_SAID),
    "no GPU, by the event": ([pod()], [event("FailedScheduling", NO_GPU)], None, "UNSCHEDULABLE", NO_GPU_SAID),
    "two of three": (
        [pod("ray-head", HEAD, node="n1", containerStatuses=running(), conditions=READY)]
        + [pod(name=f"{WORKER}{number}", conditions=unschedulable(NO_GPU)) for number in range(3)],
        [],
        None,
        "UNSCHEDULABLE",
        f"{NO_GPU_SAID} 2 more of its pods wait.",
    ),
    "a node is added": (
        [pod(conditions=unschedulable(NO_GPU))],
        [
            event("TriggeredScaleUp", "pod triggered scale-up: [{eks-gpu 1->2 (max: 8)}]", at="20:05:00"),
            event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached", at="20:01:00"),
        ],
        None,
        "UNSCHEDULABLE",
        f"{NO_GPU_SAID} A node is being added.",
    ),
    "Karpenter adds one": (
        [pod(conditions=unschedulable(NO_GPU))],
        [event("Nominated", "Pod should schedule on: nodeclaim/gpu-7xk2p")],
        None,
        "UNSCHEDULABLE",
        f"{NO_GPU_SAID} A node is being added.",
    ),
    "none is added": (
        [pod(conditions=unschedulable(NO_GPU))],
        [event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached")],
        None,
        "UNSCHEDULABLE",
        f"{NO_GPU_SAID} The cluster can't add such a node at present.",
    ),
    "several amounts": (
        [pod(conditions=unschedulable("0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory."))],
        [],
        None,
        "UNSCHEDULABLE",
        WAITS + "none has 16 of cpu and 256Gi of memory free.",
    ),
    "of no kind": (
        [
            pod(
                conditions=unschedulable(
                    "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
                )
            )
        ],
        [],
        None,
        "UNSCHEDULABLE",
        WAITS + "none is of the wanted kind.",
    ),
    "tainted": (
        [pod(conditions=unschedulable("0/2 nodes are available: 2 node(s) had untolerated taint {team: red}."))],
        [],
        None,
        "UNSCHEDULABLE",
        WAITS + "all are kept for something else by their taints.",
    ),
    "a claim that is not there": (
        [pod(conditions=unschedulable('0/2 nodes are available: persistentvolumeclaim "bases" not found.'))],
        [],
        None,
        "CONFIGURATION",
        "A worker of the run waits for the PersistentVolumeClaim 'bases', which is not there.",
    ),
    "gated": (
        [pod(conditions=unschedulable("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated"))],
        [],
        None,
        "QUOTA",
        "A worker of the run waits until the cluster's queue lets it in.",
    ),
    "no image": (
        [pod(node="n1", containerStatuses=waiting("ImagePullBackOff", f"{PULL}manifest unknown"))],
        [],
        None,
        "IMAGE_PULL",
        f"{NOT_PULLED}: there is no such image.",
    ),
    "no password": (
        [pod(node="n1", containerStatuses=waiting("ErrImagePull", "rpc error: 401 Unauthorized"))],
        [],
        None,
        "IMAGE_PULL",
        f"{NOT_PULLED}: the registry does not let it be read without a right name and password.",
    ),
    "no registry, by the event": (
        [pod(node="n1", containerStatuses=waiting("ImagePullBackOff"))],
        [event("Failed", "Failed to pull image: dial tcp 10.1.2.3:443: i/o timeout")],
        None,
        "IMAGE_PULL",
        f"{NOT_PULLED}: the registry can't be reached.",
    ),
    "no name": (
        [pod(node="n1", containerStatuses=waiting("InvalidImageName", "couldn't parse image reference"))],
        [],
        None,
        "IMAGE_PULL",
        f"{NOT_PULLED}: that is no name of an image.",
    ),
    "no secret": (
        [pod(node="n1", containerStatuses=waiting("CreateContainerConfigError", 'secret "store" not found'))],
        [],
        None,
        "CONFIGURATION",
        "A worker of the run can't be made: the Secret 'store' is not there.",
    ),
    "no key": (
        [
            pod(
                node="n1",
                containerStatuses=waiting(
                    "CreateContainerConfigError", "couldn't find key token in Secret trellis/hub"
                ),
            )
        ],
        [],
        None,
        "CONFIGURATION",
        "A worker of the run can't be made: the Secret 'hub' has no key 'token'.",
    ),
    "an image of root": (
        [
            pod(
                node="n1",
                containerStatuses=waiting(
                    "CreateContainerConfigError", "container has runAsNonRoot and image will run as root (pod: ...)"
                ),
            )
        ],
        [],
        None,
        "CONFIGURATION",
        "A worker of the run can't be made: its image runs as root, which is not allowed.",
    ),
    "no volume": (
        [pod(node="n1", containerStatuses=waiting("ContainerCreating"))],
        [event("FailedMount", 'MountVolume.SetUp failed for volume "ca" : configmap "store-ca" not found')],
        None,
        "CONFIGURATION",
        "A worker of the run waits for its volume 'ca', which can't be mounted: the ConfigMap 'store-ca' is not there.",
    ),
    "ends at once": (
        [pod("ray-head", HEAD, node="n1", containerStatuses=waiting("CrashLoopBackOff", "back-off 5m0s restarting"))],
        [],
        None,
        "CONFIGURATION",
        "The run's first pod ends again and again as it starts.",
    ),
    "too much memory": (
        [pod(node="n1", containerStatuses=container(terminated={"reason": "OOMKilled", "exitCode": 137}))],
        [],
        None,
        "OUT_OF_MEMORY",
        "A worker of the run was ended, as it took more memory than its limit of 256Gi.",
    ),
    "a worker's memory, and the head lives on": (
        [
            pod("ray-head", HEAD, node="n1", phase="Running", containerStatuses=running(), conditions=READY),
            pod(
                node="n2",
                phase="Running",
                conditions=READY,
                containerStatuses=running(
                    "ray-worker", lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}}
                ),
            ),
        ],
        [],
        None,
        "OUT_OF_MEMORY",
        "A worker of the run was ended, as it took more memory than its limit of 256Gi.",
    ),
    "its node had no memory": (
        [
            pod(
                node="n1",
                phase="Failed",
                reason="Evicted",
                message="The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi.",
                conditions=target("TerminationByKubelet"),
            )
        ],
        [],
        None,
        "EVICTED",
        "A worker of the run was ended, as its node was short of memory.",
    ),
    "it wrote too much": (
        [
            pod(
                node="n1",
                phase="Failed",
                reason="Evicted",
                message='Usage of EmptyDir volume "scratch" exceeds the limit "20Gi". ',
            )
        ],
        [],
        None,
        "EVICTED",
        "A worker of the run was ended, as it wrote more temporary files than its 20Gi.",
    ),
    "a higher priority": (
        [pod(node="n1", phase="Running", conditions=target("PreemptionByScheduler", "default-scheduler: preempting"))],
        [],
        None,
        "EVICTED",
        "A worker of the run was ended to make room for something of a higher priority.",
    ),
    "a higher priority, and the pod is gone": (
        [pod("ray-head", HEAD, node="n1", phase="Running", containerStatuses=running(), conditions=READY)],
        [event("Preempted", "Preempted by pod 3f0c-red-team on node ip-10-0-0-7")],
        None,
        "EVICTED",
        "A pod of the run was ended to make room for something of a higher priority.",
    ),
    "drained": (
        [pod(node="n1", phase="Running", conditions=target("EvictionByEvictionAPI", "Eviction API: evicting"))],
        [],
        None,
        "RECLAIMED",
        "A worker of the run was ended, as its node was taken back or emptied.",
    ),
    "a spot machine": (
        [pod(node="n1", conditions=target("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"))],
        [],
        None,
        "RECLAIMED",
        "A worker of the run was ended, as its node was taken back or emptied.",
    ),
    "Karpenter's spot machine": (
        [],
        [event("Evicted", "Evicted pod: SpotInterrupted/ip-10-0-0-7.ec2.internal")],
        None,
        "RECLAIMED",
        "A pod of the run was ended, as its node was taken back or emptied.",
    ),
    "a shutdown": (
        [
            pod(
                node="n1",
                phase="Failed",
                reason="Terminated",
                message="Pod was terminated in response to imminent node shutdown.",
                conditions=target("TerminationByKubelet"),
            )
        ],
        [],
        None,
        "RECLAIMED",
        "A worker of the run was ended, as its node was taken back or emptied.",
    ),
    "a node that is silent": (
        [pod(node="n1", conditions=target("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"))],
        [event("NodeNotReady", "Node is not ready"), event("TaintManagerEviction", "Marking for deletion Pod t/w")],
        None,
        "NODE_LOST",
        "A worker of the run was lost with its node, which stopped answering.",
    ),
    "a node that is gone": (
        [pod(node="n1", phase="Failed", conditions=target("DeletionByPodGC", "PodGC: node no longer exists"))],
        [],
        None,
        "NODE_LOST",
        "A worker of the run was lost with its node, which stopped answering.",
    ),
    "quota of the namespace": (
        [pod("ray-head", HEAD, containerStatuses=container("ray-head", waiting={"reason": "PodInitializing"}))],
        [event("FailedToCreateWorkerPod", QUOTA, f"{RUN}-x7k2p", "RayCluster")],
        None,
        "QUOTA",
        "A pod of the run waits: the namespace's quota 'compute' has no 4 of nvidia.com/gpu left.",
    ),
    "quota, by the condition": (
        [],
        [],
        {
            "metadata": {"name": RUN},
            "status": {"rayClusterStatus": {"conditions": [{"type": "ReplicaFailure", "message": QUOTA}]}},
        },
        "QUOTA",
        "A pod of the run waits: the namespace's quota 'compute' has no 4 of nvidia.com/gpu left.",
    ),
    "pod security": (
        [],
        [
            event(
                "FailedToCreateHeadPod",
                'pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes (volume "bases")',
                f"{RUN}-x7k2p",
                "RayCluster",
            )
        ],
        None,
        "CONFIGURATION",
        "The run's pods can't be made: the namespace's Pod Security Standard refuses them.",
    ),
    "no priority class": (
        [],
        [
            event(
                "FailedToCreateHeadPod",
                'pods "x" is forbidden: no PriorityClass with name training was found',
                f"{RUN}-x7k2p",
                "RayCluster",
            )
        ],
        None,
        "CONFIGURATION",
        "The run's pods can't be made: there is no PriorityClass 'training'.",
    ),
    "Kueue's quota": (
        [],
        [
            event(
                "Pending",
                "couldn't assign flavors to pod set workers: insufficient unused quota for nvidia.com/gpu in flavor "
                "h200, 2 more needed",
                f"rayjob-{RUN}-0a1b2",
                "Workload",
            )
        ],
        SUSPENDED,
        "QUOTA",
        "The run waits in the cluster's queue 'training': 2 more of nvidia.com/gpu are needed than its quota has left.",
    ),
    "Kueue says nothing": (
        [],
        [],
        SUSPENDED,
        "QUOTA",
        "The run waits in the cluster's queue 'training' until there is room for it.",
    ),
    "no queue": (
        [],
        [event("Pending", "LocalQueue training doesn't exist", f"rayjob-{RUN}-0a1b2", "Workload")],
        SUSPENDED,
        "CONFIGURATION",
        "The run waits in the cluster's queue 'training', which is not there or takes nothing.",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_is_told(name: str) -> None:
    pods, events, ray_object, code, message = TROUBLES[name]
    found = run_trouble(pods, events, ray_object)
    assert found is not None
    assert (found.code, found.message) == (TroubleCode(code), message)


@pytest.mark.parametrize("name", TROUBLES)
def test_no_other_tenant_and_no_node_is_named(name: str) -> None:
    found = run_trouble(*TROUBLES[name][:3])
    assert found is not None
    assert not any(word in found.message for word in ("red", "10.", "ip-", "n1", "3f0c", "eks-gpu"))


HEALTHY: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None]] = {
    "nothing yet": ([], [], {"metadata": {"name": RUN}}),
    "just made": ([pod()], [], None),
    "being made": ([pod(node="n1", containerStatuses=waiting("ContainerCreating"))], [], None),
    "being pulled": (
        [pod(node="n1", containerStatuses=waiting("ContainerCreating"))],
        [event("Pulling", "Pulling image")],
        None,
    ),
    "it runs, and waited once": (
        [pod(node="n1", phase="Running", containerStatuses=running("ray-worker"), conditions=READY)],
        [
            event("FailedScheduling", NO_GPU),
            event("NodeNotReady"),
            event("FailedToCreateWorkerPod", QUOTA, RUN, "RayJob"),
        ],
        None,
    ),
    "it was taken away by its owner": (
        [{**pod(node="n1"), "metadata": {"name": WORKER, "deletionTimestamp": "2026-11-21T20:00:00Z"}}],
        [event("Killing", "Stopping container ray-worker")],
        None,
    ),
    "it ended by itself": (
        [pod(node="n1", phase="Failed", containerStatuses=container(terminated={"reason": "Error", "exitCode": 1}))],
        [],
        None,
    ),
    "the queue let it in": ([], [event("Admitted", "Admitted by ClusterQueue", RUN, "Workload")], QUEUED),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_goes_its_way_is_no_trouble(name: str) -> None:
    assert run_trouble(*HEALTHY[name]) is None


def test_what_ended_it_comes_before_what_keeps_it_from_starting_anew() -> None:
    dead = pod(name=f"{WORKER}1", node="n1", phase="Failed", conditions=target("PreemptionByScheduler"))
    found = run_trouble([pod(conditions=unschedulable(NO_GPU)), dead], [])
    assert found is not None
    assert found.code is TroubleCode.EVICTED
