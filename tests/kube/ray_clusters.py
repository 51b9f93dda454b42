"""RayClusters: a head and its workers, which are ready when all their pods are."""

import json
import secrets
from typing import Any

from tests.kube.kinds import SERVICES
from tests.kube.kubelet import Kubelet
from tests.kube.statuses import StatusError, overtaken
from tests.kube.store import Store, stamp
from trellis.server.clusters.kuberay.resources import PODS, RAY_CLUSTERS, Object, is_going, name_of, uid_of


def look_at_clusters(store: Store, kubelet: Kubelet, namespace: str) -> None:
    """One look at all of them."""
    for cluster in store.list(RAY_CLUSTERS, namespace):
        if not is_going(cluster):
            with overtaken():
                _look(store, kubelet, namespace, cluster)


def _look(store: Store, kubelet: Kubelet, namespace: str, cluster: Object) -> None:
    pods = [pod for pod in store.list(PODS, namespace) if _cluster_of(pod) == name_of(cluster)]
    for node, group, count, template in _wanted(cluster):
        having = [pod for pod in pods if pod["metadata"]["labels"].get("ray.io/group") == group]
        for _ in range(count - len(having)):
            _make_pod(store, namespace, cluster, node, group, template)
    _make_service(store, namespace, cluster)
    wanted = sum(count for _, _, count, _ in _wanted(cluster))
    ready = sum(kubelet.is_ready(pod) for pod in pods)
    _say(store, namespace, cluster, ready, wanted)


def _wanted(cluster: Object) -> list[tuple[str, str, int, dict[str, Any]]]:
    spec = cluster["spec"]
    workers = [
        ("worker", group["groupName"], group.get("replicas", 0), group["template"])
        for group in spec.get("workerGroupSpecs", [])
    ]
    return [("head", "headgroup", 1, spec["headGroupSpec"]["template"]), *workers]


def _make_pod(store: Store, namespace: str, cluster: Object, node: str, group: str, template: dict[str, Any]) -> None:
    template = json.loads(json.dumps(template))
    own = {
        "ray.io/cluster": name_of(cluster),
        "ray.io/node-type": node,
        "ray.io/group": group,
        "ray.io/is-ray-node": "yes",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    part = "head" if node == "head" else f"{group}-worker"
    metadata = {
        "name": f"{name_of(cluster)}-{part}-{secrets.token_hex(3)[:5]}",
        "labels": {**own, **template["metadata"].get("labels", {})},
        "ownerReferences": [_owner(cluster)],
    }
    store.create(PODS, namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})


def _make_service(store: Store, namespace: str, cluster: Object) -> None:
    name = f"{name_of(cluster)}-head-svc"
    try:
        store.get(SERVICES, namespace, name)
    except StatusError:
        metadata = {"name": name, "ownerReferences": [_owner(cluster)]}
        ports = [{"name": "dashboard", "port": 8265}, {"name": "serve", "port": 8000}]
        spec = {"ports": ports, "selector": {"ray.io/cluster": name_of(cluster), "ray.io/node-type": "head"}}
        store.create(SERVICES, namespace, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})


def _say(store: Store, namespace: str, cluster: Object, ready: int, wanted: int) -> None:
    is_ready = ready == wanted
    said: dict[str, Any] = {
        "desiredWorkerReplicas": wanted - 1,
        "readyWorkerReplicas": max(0, ready - 1),
        "observedGeneration": cluster["metadata"]["generation"],
    }
    if is_ready and cluster.get("status", {}).get("state") != "ready":
        service = f"{name_of(cluster)}-head-svc"
        provisioned = {
            "type": "RayClusterProvisioned",
            "status": "True",
            "reason": "AllPodRunningAndReadyFirstTime",
            "message": "All Ray Pods are ready for the first time",
            "lastTransitionTime": stamp(),
        }
        said.update(state="ready", head={"serviceName": service}, conditions=[provisioned], lastUpdateTime=stamp())
    store.set_status(RAY_CLUSTERS, namespace, name_of(cluster), said)


def _cluster_of(pod: Object) -> str:
    return str(pod["metadata"].get("labels", {}).get("ray.io/cluster", ""))


def _owner(one: Object) -> dict[str, Any]:
    named = {"apiVersion": one["apiVersion"], "kind": one["kind"], "name": name_of(one), "uid": uid_of(one)}
    return {**named, "controller": True, "blockOwnerDeletion": True}
