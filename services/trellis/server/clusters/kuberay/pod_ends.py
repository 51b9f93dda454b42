"""What ended a pod from outside: memory, the node, or something of a higher priority."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trellis.server.clusters.kuberay.pod_words import condition_of, containers_of, what_of
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode

KubernetesObject = Mapping[str, Any]

_TARGETS: Final[Mapping[str, TroubleCode]] = {
    "PreemptionByScheduler": TroubleCode.EVICTED,
    "EvictionByEvictionAPI": TroubleCode.RECLAIMED,
    "DeletionByTaintManager": TroubleCode.RECLAIMED,
    "DeletionByPodGC": TroubleCode.NODE_LOST,
    "TerminationByKubelet": TroubleCode.EVICTED,
}
"""By the reason of the condition DisruptionTarget."""
_REASONS: Final[Mapping[str, TroubleCode]] = {
    "Evicted": TroubleCode.EVICTED,
    "Preempting": TroubleCode.EVICTED,
    "NodeShutdown": TroubleCode.RECLAIMED,
    "Shutdown": TroubleCode.RECLAIMED,
    "Terminated": TroubleCode.RECLAIMED,
    "NodeLost": TroubleCode.NODE_LOST,
}
"""By the reason of the pod's status."""
_EVENTS: Final[Mapping[str, TroubleCode]] = {
    "Preempted": TroubleCode.EVICTED,
    "Evicted": TroubleCode.EVICTED,
    "EvictedByVPA": TroubleCode.EVICTED,
    "TaintManagerEviction": TroubleCode.RECLAIMED,
    "ScaleDown": TroubleCode.RECLAIMED,
    "SpotInterrupted": TroubleCode.RECLAIMED,
    "SpotInterruption": TroubleCode.RECLAIMED,
    "SpotRebalanceRecommendation": TroubleCode.RECLAIMED,
    "RebalanceRecommendation": TroubleCode.RECLAIMED,
    "PreemptScheduled": TroubleCode.RECLAIMED,
    "InstanceStopping": TroubleCode.RECLAIMED,
    "InstanceTerminating": TroubleCode.RECLAIMED,
    "DisruptionTerminating": TroubleCode.RECLAIMED,
    "NodeShutdown": TroubleCode.RECLAIMED,
    "NodeNotReady": TroubleCode.NODE_LOST,
}
"""By the reason of an event: of Kubernetes, its cluster autoscaler, Karpenter, and the clouds' termination handlers."""
_RECLAIM_WORDS: Final = re.compile(
    r"spot|interrupt|drain|shutdown|drift|consolidat|expired|empty|underutilized", re.IGNORECASE
)
_LACKS: Final = re.compile(r"low on resource: ([a-z-]+)")
_TOO_MUCH: Final = re.compile(r"exceeds the (?:total )?limit(?: of containers)? \"?([0-9.]+\w*)")


def pod_end(pod: KubernetesObject, events: Sequence[KubernetesObject]) -> RunTrouble | None:
    """What ended it from outside, if that is what happened; of a pod that is gone there are only events."""
    what = what_of(pod)
    if (limit := _killed_for_memory(pod)) is not None:
        of = f" of {limit}" if limit else ""
        message = f"{what} was ended, as it took more memory than its limit{of}."
        return RunTrouble(TroubleCode.OUT_OF_MEMORY, message)
    code, said = _by_status(pod)
    if code is TroubleCode.RECLAIMED and any(event.get("reason") == "NodeNotReady" for event in events):
        code = TroubleCode.NODE_LOST  # which is why it was tainted
    if code is None and not _is_ready(pod):
        code, said = _by_events(events)
    return None if code is None else RunTrouble(code, _sentence(what, code, said))


def _killed_for_memory(pod: KubernetesObject) -> str | None:
    """The limit of a container that was, or an empty text; None if none was."""
    for state in containers_of(pod):
        ends = [state.get(which, {}).get("terminated") or {} for which in ("state", "lastState")]
        if any(end.get("reason") == "OOMKilled" for end in ends):
            named = [c for c in pod.get("spec", {}).get("containers", ()) if c["name"] == state["name"]]
            limits = named[0].get("resources", {}).get("limits", {}) if named else {}
            return str(limits.get("memory", ""))
    return None


def _by_status(pod: KubernetesObject) -> tuple[TroubleCode | None, str]:
    status = pod.get("status", {})
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    target = condition_of(pod, "DisruptionTarget")
    if reason in _REASONS and (status.get("phase") == "Failed" or reason == "NodeLost"):
        return _REASONS[reason], message
    if target.get("status") != "True":
        return None, ""
    said = f"{message} {target.get('message', '')}"
    if target.get("reason") == "TerminationByKubelet" and "shutdown" in said:
        return TroubleCode.RECLAIMED, said
    why = "preempt" if target.get("reason") == "PreemptionByScheduler" else said
    return _TARGETS.get(str(target.get("reason")), TroubleCode.EVICTED), why


def _by_events(events: Sequence[KubernetesObject]) -> tuple[TroubleCode | None, str]:
    reasons = {str(event.get("reason", "")): str(event.get("message", "")) for event in events}
    if "NodeNotReady" in reasons:
        return TroubleCode.NODE_LOST, ""
    for reason, message in reasons.items():
        code = _EVENTS.get(reason)
        if code is TroubleCode.EVICTED and reason == "Evicted" and _RECLAIM_WORDS.search(message):
            return TroubleCode.RECLAIMED, message
        if code is not None:
            return code, "preempt" if reason == "Preempted" else message
    return None, ""


def _is_ready(pod: KubernetesObject) -> bool:
    return bool(condition_of(pod, "Ready").get("status") == "True")


def _sentence(what: str, code: TroubleCode, said: str) -> str:
    if code is TroubleCode.NODE_LOST:
        return f"{what} was lost with its node, which stopped answering."
    if code is TroubleCode.RECLAIMED:
        return f"{what} was ended, as its node was taken back or emptied."
    if said == "preempt":
        return f"{what} was ended to make room for something of a higher priority."
    if limit := _TOO_MUCH.search(said):
        return f"{what} was ended, as it wrote more temporary files than its {limit[1]}."
    if lacks := _LACKS.search(said):
        return f"{what} was ended, as its node was short of {lacks[1].replace('-', ' ')}."
    return f"{what} was ended to relieve its node."
