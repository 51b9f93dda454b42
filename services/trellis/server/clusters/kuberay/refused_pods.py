"""Pods that are not made at all: for a quota of the namespace, a queue, or a rule that they break."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from trellis.server.domain.run_trouble import RunTrouble, TroubleCode

KubernetesObject = Mapping[str, Any]

_EXCEEDED: Final = re.compile(r"exceeded quota: (\S+?), requested: (.*?), used: ")
_LACKING: Final = re.compile(r"quota for ([\w./-]+?)(?: in flavor \S+?)?(?: in ClusterQueue \S+?)?, (\S+) more needed")
_REFUSALS: Final = (
    (r"violates PodSecurity", "the namespace's Pod Security Standard refuses them"),
    (r"no PriorityClass with name (\S+) was found", "there is no PriorityClass {}"),
    (r"error looking up service account (?:\S+/)?(\S+?):", "there is no ServiceAccount {}"),
    (r"(?:maximum|minimum) \w+ usage per (?:Container|Pod) is", "a LimitRange of the namespace refuses their size"),
    (r"admission webhook \"(\S+?)\" denied", "the admission webhook {} refuses them"),
    (r"RuntimeClass.*?\"?(\S+?)\"? not found", "there is no RuntimeClass {}"),
)
_QUEUE: Final = "kueue.x-k8s.io/queue-name"


def creation_trouble(message: str, whose: str = "run") -> RunTrouble | None:
    """What such a message of an event or condition says of pods that could not be made, of a run or of a cluster."""
    if found := _EXCEEDED.search(message):
        asked = " and ".join(f"{amount} of {name}" for name, amount in _pairs(found[2]))
        return RunTrouble(
            TroubleCode.QUOTA, f"A pod of the {whose} waits: the namespace's quota {found[1]!r} has no {asked} left."
        )
    if "forbidden" not in message and "denied" not in message and "not found" not in message:
        return None
    for pattern, words in _REFUSALS:
        if found := re.search(pattern, message):
            named = repr(found[1].rstrip(".,:")) if found.groups() else ""
            return RunTrouble(TroubleCode.CONFIGURATION, f"The {whose}'s pods can't be made: {words.format(named)}.")
    return None


def quota_trouble(
    ray_object: KubernetesObject, events: Sequence[KubernetesObject], whose: str = "run"
) -> RunTrouble | None:
    """What Kueue says of an object that it has not let in."""
    labels = ray_object.get("metadata", {}).get("labels") or {}
    if not (ray_object.get("spec") or {}).get("suspend") or _QUEUE not in labels:
        return None
    waits = f"The {whose} waits in the cluster's queue {labels[_QUEUE]!r}"
    for message in reversed([*_words(ray_object), *(str(event.get("message", "")) for event in events)]):
        if lacking := _LACKING.search(message):
            amount = f"{lacking[2]} more of {lacking[1]} {'is' if lacking[2] == '1' else 'are'} needed"
            return RunTrouble(TroubleCode.QUOTA, f"{waits}: {amount} than its quota has left.")
        if "doesn't exist" in message or "inactive" in message:
            return RunTrouble(TroubleCode.CONFIGURATION, f"{waits}, which is not there or takes nothing.")
    return RunTrouble(TroubleCode.QUOTA, f"{waits} until there is room for it.")


def _words(ray_object: KubernetesObject) -> Iterator[str]:
    for one in (ray_object.get("status") or {}).get("conditions") or ():
        if one.get("type") == "QuotaReserved" and one.get("status") == "False":
            yield str(one.get("message", ""))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split(","):
        name, _, amount = part.strip().partition("=")
        yield name.removeprefix("requests.").removeprefix("limits."), amount
