"""Events: what controllers say of objects."""

import uuid

from tests.kube.store import Store, stamp
from trellis.server.clusters.kuberay.resources import EVENTS, Object, name_of, uid_of


def say(store: Store, namespace: str, about: Object, kind: str, reason: str, message: str) -> None:
    """Write one of type Normal or Warning."""
    involved = {
        "kind": about["kind"],
        "apiVersion": about["apiVersion"],
        "namespace": namespace,
        "name": name_of(about),
        "uid": uid_of(about),
    }
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name_of(about)}.{uuid.uuid4().hex[:16]}"},
        "involvedObject": involved,
        "type": kind,
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": stamp(),
        "lastTimestamp": stamp(),
        "source": {"component": "stand-in"},
    }
    store.create(EVENTS, namespace, event)
