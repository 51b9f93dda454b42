"""Why no node is found for a pod, and whether one is being added."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trellis.server.clusters.kuberay.pod_words import about, condition_of, what_of
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode

KubernetesObject = Mapping[str, Any]

_REASONS: Final = re.compile(r"nodes? (?:are|is) available: (.*)", re.DOTALL)
_PREEMPTION: Final = re.compile(r"\s*(?:preemption|no new claims)\b.*", re.DOTALL | re.IGNORECASE)
_SHORT: Final = re.compile(r"Insufficient ([\w./-]+)")
_CLAIM: Final = re.compile(r'persistentvolumeclaim "([^"]+)" not found', re.IGNORECASE)
_ADDED: Final = frozenset({"TriggeredScaleUp", "Nominated"})
_NOT_ADDED: Final = frozenset({"NotTriggerScaleUp", "FailedScaleUp"})


def place_trouble(pods: Sequence[KubernetesObject], events: Sequence[KubernetesObject]) -> RunTrouble | None:
    """What keeps the first of these pods from a node, and how many wait as it does; `events` are in their order."""
    waiting = [(pod, said) for pod in pods if (said := _said(pod, about(events, pod)))]
    if not waiting:
        return None
    pod, said = waiting[0]
    what = what_of(pod)
    if claim := _CLAIM.search(said):
        message = f"{what} waits for the PersistentVolumeClaim {claim[1]!r}, which is not there."
        return RunTrouble(TroubleCode.CONFIGURATION, message)
    if "unbound immediate PersistentVolumeClaims" in said:
        return RunTrouble(TroubleCode.CONFIGURATION, f"{what} waits for a PersistentVolumeClaim that is not bound.")
    if said == "gated":
        return RunTrouble(TroubleCode.QUOTA, f"{what} waits until the cluster's queue lets it in.")
    others = len(waiting) - 1
    besides = f" {others} more of its pods {'wait' if others > 1 else 'waits'}." if others else ""
    adds = _autoscaler([event for one, _ in waiting for event in about(events, one)])
    return RunTrouble(TroubleCode.UNSCHEDULABLE, f"{what} waits for a node: {_why(pod, said)}.{besides}{adds}")


def _said(pod: KubernetesObject, events: Sequence[KubernetesObject]) -> str:
    """The scheduler's word on a pod that it has found no node for; empty if it has, or has not looked yet."""
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled.get("status") == "True" or pod.get("spec", {}).get("nodeName"):
        return ""
    if scheduled.get("reason") == "SchedulingGated":
        return "gated"
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or "Unschedulable")
    failed = [str(event.get("message", "")) for event in events if event.get("reason") == "FailedScheduling"]
    return failed[-1] if failed else ""


def _why(pod: KubernetesObject, said: str) -> str:
    found = _REASONS.search(said)
    reasons = _PREEMPTION.sub("", found[1]) if found else said
    short = [*dict.fromkeys(name.rstrip(".") for name in _SHORT.findall(reasons))]
    if short:
        return f"none has {_listed([_amount(pod, name) for name in short])} free"
    if re.search(r"node affinity|selector", reasons):
        return "none is of the wanted kind"
    if "taint" in reasons:
        return "all are kept for something else by their taints"
    if "volume node affinity" in reasons:
        return "none may use its volume"
    if "topology spread" in reasons or "anti-affinity" in reasons:
        return "it would stand too close to others"
    if "Too many pods" in reasons:
        return "none may hold more pods"
    return "none takes it"


def _amount(pod: KubernetesObject, resource: str) -> str:
    containers = pod.get("spec", {}).get("containers", ())
    asked = [c.get("resources", {}).get("requests", {}).get(resource) for c in containers]
    amounts = [str(one) for one in asked if one]
    return f"{amounts[0]} of {resource}" if len(amounts) == 1 else f"enough of {resource}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def _autoscaler(events: Sequence[KubernetesObject]) -> str:
    said = [str(event.get("reason")) for event in events if event.get("reason") in _ADDED | _NOT_ADDED]
    if not said:
        return ""
    return " A node is being added." if said[-1] in _ADDED else " The cluster can't add such a node at present."
