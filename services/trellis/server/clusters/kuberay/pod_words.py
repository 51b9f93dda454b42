"""How pods are spoken of, and what is said of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from trellis.server.clusters.kuberay.pods import COMPONENT

KubernetesObject = Mapping[str, Any]
_CLUSTERS: Final[Mapping[str, str]] = {"trainers": "the trainers' cluster", "engines": "the engines' cluster"}
_OF_RUN: Final[Mapping[str, str]] = {
    "ray-head": "The run's first pod",
    "ray-worker": "A worker of the run",
    "ray-job-submitter": "The pod that hands the run over",
}


def what_of(pod: KubernetesObject) -> str:
    """What the pod is to its run or cluster, as the beginning of a sentence."""
    component = (pod.get("metadata", {}).get("labels") or {}).get(COMPONENT, "")
    names = [container["name"] for container in pod.get("spec", {}).get("containers", ())]
    if component in _CLUSTERS:
        return f"{'The head' if 'ray-head' in names else 'A worker'} of {_CLUSTERS[component]}"
    return next((_OF_RUN[name] for name in names if name in _OF_RUN), "A pod of the run")


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
