"""Pods and events as Kubernetes writes them."""

from typing import Any

RUN = "trellis-0a1b2c3d-j7k3m9x2-1"
HEAD, WORKER = f"{RUN}-x7k2p-head-9f4wd", f"{RUN}-x7k2p-workers-worker-c5r8t"
QUEUED = {"kind": "RayJob", "metadata": {"name": RUN, "labels": {"kueue.x-k8s.io/queue-name": "training"}}}
SUSPENDED = {**QUEUED, "spec": {"suspend": True}}


def pod(
    container: str = "ray-worker", name: str = WORKER, *, gpus: int = 4, node: str = "", **status: Any
) -> dict[str, Any]:
    amounts = {"cpu": "16", "memory": "256Gi", "nvidia.com/gpu": str(gpus)}
    resources = {"requests": amounts, "limits": amounts}
    spec = {"containers": [{"name": container, "image": "registry.example.com/ray:1", "resources": resources}]}
    if node:
        spec["nodeName"] = node  # type: ignore[assignment]
    return {"metadata": {"name": name}, "spec": spec, "status": {"phase": "Pending", **status}}


def unschedulable(message: str, reason: str = "Unschedulable") -> list[dict[str, Any]]:
    return [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]


def container(name: str = "ray-worker", **state: Any) -> list[dict[str, Any]]:
    return [{"name": name, "ready": False, "state": state, "image": "registry.example.com/ray:1"}]


def waiting(reason: str, message: str = "") -> list[dict[str, Any]]:
    return container(waiting={"reason": reason, "message": message})


def running(name: str = "ray-head", **changes: Any) -> list[dict[str, Any]]:
    started = {"startedAt": "2026-11-21T20:00:00Z"}
    return [{"name": name, "ready": True, "state": {"running": started}, **changes}]


READY = [{"type": "Ready", "status": "True"}]


def target(reason: str, message: str = "") -> list[dict[str, Any]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]


def event(
    reason: str, message: str = "", name: str = WORKER, kind: str = "Pod", at: str = "20:00:00"
) -> dict[str, Any]:
    about = {"kind": kind, "name": name, "namespace": "trellis"}
    return {"reason": reason, "message": message, "involvedObject": about, "lastTimestamp": f"2026-11-21T{at}Z"}
