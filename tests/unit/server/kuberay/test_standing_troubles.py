"""What keeps clusters that stay from work, in words of their own."""

from tests.pod_samples import QUEUED, READY, SUSPENDED, pod, running, unschedulable

from trellis.server.clusters.kuberay.troubles import start_trouble


def test_a_cluster_that_stays_is_no_run() -> None:
    found = start_trouble([], [], {**SUSPENDED, "kind": "RayCluster"})
    assert found is not None
    assert found.message == "The Ray cluster waits in the cluster's queue 'training' until there is room for it."
    worker = pod(node="n1", phase="Running", containerStatuses=running("ray-worker"), conditions=READY)
    worker["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"reason": "OOMKilled"}}
    assert start_trouble([worker], [], QUEUED) is None, "what ended one of its workers before is over"
    waits = pod(conditions=unschedulable("0/7 nodes are available: 7 Insufficient nvidia.com/gpu."))
    waits["metadata"]["labels"] = {"app.kubernetes.io/component": "engines"}
    found = start_trouble([waits], [], QUEUED)
    assert found is not None
    assert found.message.startswith("A worker of the engines' cluster waits for a node")
