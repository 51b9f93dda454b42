"""How pods are spoken of, and what is said of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

KubernetesObject = Mapping[str, Any]
CONTAINER: Final[Mapping[str, str]] = {
    "ray-head": "The run's first pod",
    "ray-worker": "A worker of the run",
    "ray-job-submitter": "The pod that hands the run over",
}


def what_of(pod: KubernetesObject) -> str:
    """What the pod is to the run, as the beginning of a sentence."""
    names = [container["name"] for container in pod.get("spec", {}).get("containers", ())]
    return next((CONTAINER[name] for name in names if name in CONTAINER), "A pod of the run")


def containers_of(pod: KubernetesObject) -> list[dict[str, Any]]:
    """What Kubernetes says of the pod's containers."""
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def condition_of(pod: KubernetesObject, kind: str) -> Mapping[str, Any]:
    """One of the pod's conditions; empty if it is not there."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def about(events: Iterable[KubernetesObject], pod: KubernetesObject) -> Sequence[KubernetesObject]:
    """The events on this pod."""
    name = pod["metadata"]["name"]
    return [event for event in events if event["involvedObject"].get("name") == name]


def event_time(event: KubernetesObject) -> str:
    """When it was last seen; such times are in order as texts."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = event.get("metadata", {}).get("creationTimestamp")
    return str(next((time for time in (*times, event.get("firstTimestamp"), created) if time), ""))
