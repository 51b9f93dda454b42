"""RayServices: a RayCluster, and what Serve says of the applications of `serveConfigV2`."""

import json
import secrets
from typing import Any

import yaml

from tests.kube.statuses import StatusError, overtaken
from tests.kube.store import Store, stamp
from trellis.server.clusters.kuberay.resources import RAY_CLUSTERS, RAY_SERVICES, Object, is_going, name_of, uid_of


def look_at_services(store: Store, namespace: str) -> None:
    """One look at all of them."""
    for service in store.list(RAY_SERVICES, namespace):
        if not is_going(service):
            with overtaken():
                _look(store, namespace, service)


def _look(store: Store, namespace: str, service: Object) -> None:
    said = service.get("status", {})
    active = said.get("activeServiceStatus") or {}
    name = active.get("rayClusterName") or f"{name_of(service)}-{secrets.token_hex(3)[:5]}"
    try:
        cluster = store.get(RAY_CLUSTERS, namespace, name)
    except StatusError:
        cluster = store.create(RAY_CLUSTERS, namespace, _cluster(service, name))
    ready = cluster.get("status", {}).get("state") == "ready"
    change: dict[str, Any] = {
        "observedGeneration": service["metadata"]["generation"],
        "activeServiceStatus": {
            "rayClusterName": name,
            "applicationStatuses": {app["name"]: _application(ready) for app in _applications(service)},
        },
    }
    if ready and said.get("serviceStatus") != "Running":
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "NonZeroServeEndpoints",
            "message": "Number of serve endpoints is greater than 0",
            "lastTransitionTime": stamp(),
        }
        change.update(serviceStatus="Running", numServeEndpoints=1, conditions=[condition])
    store.set_status(RAY_SERVICES, namespace, name_of(service), change)


def _applications(service: Object) -> list[dict[str, Any]]:
    found: dict[str, Any] = yaml.safe_load(service["spec"].get("serveConfigV2") or "{}") or {}
    return list(found.get("applications", []))


def _application(ready: bool) -> dict[str, Any]:
    return {"status": "RUNNING" if ready else "DEPLOYING"}


def _cluster(service: Object, name: str) -> Object:
    owner = {"apiVersion": "ray.io/v1", "kind": "RayService", "name": name_of(service), "uid": uid_of(service)}
    metadata = {
        "name": name,
        "labels": {**service["metadata"].get("labels", {}), "ray.io/originated-from-cr-name": name_of(service)},
        "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
    }
    spec = json.loads(json.dumps(service["spec"]["rayClusterConfig"]))
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}
