"""What keeps a run from starting on Kubernetes, or ended it from outside, read from its pods and from what is said of them.

Pure, and made of our own words: a tenant may read it, so that it names no node, no other tenant and no process's output.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from trellis.server.clusters.kuberay.placement import place_trouble
from trellis.server.clusters.kuberay.pod_ends import pod_end
from trellis.server.clusters.kuberay.pod_words import about, containers_of, event_time, what_of
from trellis.server.clusters.kuberay.refused_pods import creation_trouble, quota_trouble
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode

KubernetesObject = Mapping[str, Any]

_ORDER: Final = (
    *(TroubleCode.OUT_OF_MEMORY, TroubleCode.RECLAIMED, TroubleCode.NODE_LOST, TroubleCode.EVICTED),
    *(TroubleCode.CONFIGURATION, TroubleCode.IMAGE_PULL, TroubleCode.QUOTA, TroubleCode.UNSCHEDULABLE),
)
"""Which of several is told: what ended a run before what keeps it from starting, and what time won't cure before the rest."""
_IMAGE: Final = frozenset({
    *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
    *("RegistryUnavailable", "SignatureValidationFailed"),
})  # fmt: skip
_CONFIGURATION: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_MOUNTS: Final = frozenset({"FailedMount", "FailedAttachVolume"})
_IMAGE_WHY: Final = (
    (r"not found|manifest unknown|no such manifest|name unknown", "there is no such image"),
    (
        r"unauthorized|denied|authentication required|forbidden|no basic auth|\b40[13]\b",
        "the registry does not let it be read without a right name and password",
    ),
    (r"toomanyrequests|too many requests|\b429\b", "the registry refuses to be asked so often"),
    (r"no space left", "the node's disk is full"),
    (r"no such host|timeout|timed out|connection refused|unreachable|EOF", "the registry can't be reached"),
)
_MISSING: Final = re.compile(r'(secret|configmap|persistentvolumeclaim) "([^"]+)" not found', re.IGNORECASE)
_MISSING_KEY: Final = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:\S+/)?(\S+)")
_VOLUME: Final = re.compile(r'volume "([^"]+)"')
_KINDS: Final = {
    "secret": "Secret",
    "configmap": "ConfigMap",
    "persistentvolumeclaim": "PersistentVolumeClaim",
}


def run_trouble(
    pods: Sequence[KubernetesObject], events: Sequence[KubernetesObject], ray_object: KubernetesObject | None = None
) -> RunTrouble | None:
    """What is wrong with the run whose pods these are, if anything is.

    `events` are those on its pods and on the objects that make them, also on ones that are gone; `ray_object` is the RayJob,
    RayCluster or RayService.
    """
    in_order = sorted(events, key=event_time)
    return worst([*_ends(pods, in_order), *_starts(pods, in_order, ray_object or {})])


def start_trouble(
    pods: Sequence[KubernetesObject], events: Sequence[KubernetesObject], ray_object: KubernetesObject
) -> RunTrouble | None:
    """What keeps pods of a cluster that stays from starting; what ended others before is over."""
    return worst(_starts(pods, sorted(events, key=event_time), ray_object))


def worst(troubles: Iterable[RunTrouble]) -> RunTrouble | None:
    """The one of several that is told."""
    found: dict[TroubleCode, RunTrouble] = {}
    for trouble in troubles:
        found.setdefault(trouble.code, trouble)
    return next((found[code] for code in _ORDER if code in found), None)


def _ends(pods: Sequence[KubernetesObject], events: Sequence[KubernetesObject]) -> Iterator[RunTrouble]:
    known = {str(pod["metadata"]["name"]) for pod in pods}
    for pod in pods:
        if (ended := pod_end(pod, about(events, pod))) is not None:
            yield ended
    for event in events:
        name, kind = event["involvedObject"].get("name"), event["involvedObject"].get("kind")
        if kind in {"Pod", None} and name not in known and (ended := pod_end({}, [event])) is not None:
            yield ended  # of a pod that is gone


def _starts(
    pods: Sequence[KubernetesObject], events: Sequence[KubernetesObject], ray_object: KubernetesObject
) -> Iterator[RunTrouble]:
    starting = [pod for pod in pods if is_starting(pod)]
    for pod in starting:
        yield from _waiting(pod, about(events, pod))
    if (placed := place_trouble(starting, events)) is not None:
        yield placed
    yield from _of_the_whole(ray_object, events, has_started=bool(pods) and not starting)


def is_starting(pod: KubernetesObject) -> bool:
    """Whether it is to run, and does not yet."""
    status = pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") in {"Succeeded", "Failed"}:
        return False
    ready = {state["name"]: state.get("ready", False) for state in containers_of(pod)}
    return not (ready and all(ready.values()))


def _waiting(pod: KubernetesObject, events: Sequence[KubernetesObject]) -> Iterator[RunTrouble]:
    what = what_of(pod)
    for state in containers_of(pod):
        waiting = state.get("state", {}).get("waiting") or {}
        reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
        if reason in _IMAGE:
            yield _image(what, str(state.get("image") or _image_of(pod, state["name"])), reason, message, events)
        elif reason in _CONFIGURATION:
            yield RunTrouble(TroubleCode.CONFIGURATION, f"{what} can't be made: {_missing(message)}.")
        elif reason == "CrashLoopBackOff":
            yield RunTrouble(TroubleCode.CONFIGURATION, f"{what} ends again and again as it starts.")
    if any("waiting" in state.get("state", {}) for state in containers_of(pod)) or not containers_of(pod):
        for event in events:
            if event.get("reason") in _MOUNTS:
                yield _mount(what, str(event.get("message", "")))


def _image(what: str, image: str, reason: str, message: str, events: Iterable[KubernetesObject]) -> RunTrouble:
    said = " ".join([message, *(str(e.get("message", "")) for e in events if e.get("reason") == "Failed")])
    if reason == "InvalidImageName":
        why = "that is no name of an image"
    elif reason == "ErrImageNeverPull":
        why = "the node has it not, and may not fetch it"
    elif reason == "SignatureValidationFailed":
        why = "its signature is not valid"
    else:
        why = next((words for pattern, words in _IMAGE_WHY if re.search(pattern, said, re.IGNORECASE)), "")
    because = f": {why}" if why else ""
    return RunTrouble(TroubleCode.IMAGE_PULL, f"{what} waits for its image {image!r}, which can't be fetched{because}.")


def _image_of(pod: KubernetesObject, container: str) -> str:
    spec = pod.get("spec", {})
    every = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    return next((str(one.get("image", "")) for one in every if one["name"] == container), "")


def _mount(what: str, message: str) -> RunTrouble:
    volume = _VOLUME.search(message)
    named = f"its volume {volume[1]!r}" if volume else "one of its volumes"
    missing = _MISSING.search(message)
    why = f": {_missing(message)}" if missing else ""
    return RunTrouble(TroubleCode.CONFIGURATION, f"{what} waits for {named}, which can't be mounted{why}.")


def _missing(message: str) -> str:
    if found := _MISSING.search(message):
        return f"the {_KINDS[found[1].lower()]} {found[2]!r} is not there"
    if found := _MISSING_KEY.search(message):
        return f"the {found[2]} {found[3].rstrip('.')!r} has no key {found[1]!r}"
    if "runAsNonRoot" in message or "run as root" in message:
        return "its image runs as root, which is not allowed"
    return "its settings of the container are wrong"


def _of_the_whole(
    ray_object: KubernetesObject, events: Sequence[KubernetesObject], *, has_started: bool
) -> Iterator[RunTrouble]:
    if has_started:
        return
    status = ray_object.get("status") or {}
    whose = "run" if ray_object.get("kind", "RayJob") == "RayJob" else "Ray cluster"
    conditions = [*(status.get("conditions") or ()), *((status.get("rayClusterStatus") or {}).get("conditions") or ())]
    sayings = [
        *(str(event.get("message", "")) for event in reversed(events)),
        *(str(one.get("message", "")) for one in conditions if one.get("type") == "ReplicaFailure"),
    ]
    for message in sayings:
        if (trouble := creation_trouble(message, whose)) is not None:
            yield trouble
    if (trouble := quota_trouble(ray_object, events, whose)) is not None:
        yield trouble
