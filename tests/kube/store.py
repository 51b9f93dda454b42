"""The objects of the stand-in and their history, by Kubernetes' rules."""

import asyncio
import copy
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tests.kube import statuses
from tests.kube.kinds import CUSTOM
from tests.kube.rules import admitted
from trellis.server.clusters.kuberay.resources import EVENTS, PODS, Object, Resource, is_going, name_of, uid_of

Key = tuple[Resource, str, str]
_FIXED: Final = ("uid", "name", "namespace", "creationTimestamp")


@dataclass(frozen=True, slots=True)
class Happening:
    """One change: ADDED, MODIFIED or DELETED, and the object as it was then."""

    version: int
    kind: str
    resource: Resource
    namespace: str
    object: Object


class Store:
    """Everything that is kept; `history` is what watches tell."""

    def __init__(self) -> None:
        self.version = 1000
        self.floor = 1000
        """What happened up to this version is not remembered any more."""
        self.history: list[Happening] = []
        self.namespaces = {"trellis"}
        self._objects: dict[Key, Object] = {}
        self._applied: dict[Key, Object] = {}
        self._changed = asyncio.Event()
        self.before_create: Callable[[Resource, Object], Object] = lambda _, one: one
        """What admission webhooks do, such as Kueue's."""
        self.makes_pods_of_jobs = False
        """Whether a Job's pod comes by itself."""

    def create(self, kind: Resource, namespace: str, one: Object) -> Object:
        """Raises StatusError."""
        if namespace not in self.namespaces:
            raise statuses.no_such_namespace(namespace)
        one = self.before_create(kind, admitted(kind, copy.deepcopy(one)))
        key = (kind, namespace, name_of(one))
        if one["metadata"].get("namespace", namespace) != namespace:
            raise statuses.bad_request(
                "the namespace of the provided object does not match the namespace of the request"
            )
        if kind == EVENTS and one["involvedObject"].get("namespace") != namespace:
            raise statuses.invalid(kind, name_of(one), ["involvedObject.namespace does not match event.namespace"])
        if key in self._objects:
            raise statuses.already_exists(kind, name_of(one))
        if kind in CUSTOM:
            one.pop("status", None)
        now = stamp()
        one["metadata"].update(namespace=namespace, uid=str(uuid.uuid4()), creationTimestamp=now, generation=1)
        self._put("ADDED", key, one)
        self.collect_garbage()
        return self._objects.get(key, one)

    def get(self, kind: Resource, namespace: str, name: str) -> Object:
        """Raises StatusError 404."""
        if (kind, namespace, name) not in self._objects:
            raise statuses.not_found(kind, name)
        return self._objects[kind, namespace, name]

    def has(self, kind: Resource, namespace: str, name: str) -> bool:
        """Whether there is one."""
        return (kind, namespace, name) in self._objects

    def list(self, kind: Resource, namespace: str) -> list[Object]:
        """By name."""
        found = [one for (k, n, _), one in self._objects.items() if (k, n) == (kind, namespace)]
        return sorted(found, key=name_of)

    def patch(self, kind: Resource, namespace: str, name: str, change: Object) -> Object:
        """A merge patch. Of a custom object everything but the status. Raises StatusError."""
        present = self.get(kind, namespace, name)
        _check_version(kind, present, change)
        if kind in CUSTOM:
            change = {field: value for field, value in change.items() if field != "status"}
        return self.replace(kind, namespace, name, merged(present, change))

    def apply(self, kind: Resource, namespace: str, one: Object) -> Object:
        """Server-side apply by one manager: what it gave before and gives no more goes. Raises StatusError."""
        key = (kind, namespace, str(one["metadata"]["name"]))
        if key in self._objects:
            _check_version(kind, self._objects[key], one)
        before, self._applied[key] = self._applied.get(key, {}), copy.deepcopy(one)
        if key not in self._objects:
            return self.create(kind, namespace, one)
        change = {field: value for field, value in _difference(before, one).items() if field != "status"}
        return self.replace(kind, namespace, key[2], merged(self._objects[key], change))

    def set_status(self, kind: Resource, namespace: str, name: str, status: Mapping[str, Any]) -> Object:
        """What a controller says of the object; all of it, or what is merged into it for pods. Raises StatusError."""
        present = self.get(kind, namespace, name)
        return self._write((kind, namespace, name), {**present, "status": {**present.get("status", {}), **status}})

    def replace(self, kind: Resource, namespace: str, name: str, one: Object) -> Object:
        """Raises StatusError."""
        present = self.get(kind, namespace, name)
        for field in _FIXED:
            if one["metadata"].get(field) != present["metadata"].get(field):
                raise statuses.invalid(kind, name, [f"metadata.{field} Invalid value: field is immutable"])
        return self._write((kind, namespace, name), admitted(kind, one))

    def delete(
        self, kind: Resource, namespace: str, name: str, options: Mapping[str, Any] | None = None
    ) -> Object | None:
        """The object, where something is still to be done before it goes; None if it is gone. Raises StatusError."""
        present = self.get(kind, namespace, name)
        for field, value in (options or {}).get("preconditions", {}).items():
            if present["metadata"].get(field) != value:
                why = f"the {field} in the precondition ({value}) does not match the {field} in record"
                raise statuses.conflict(kind, name, why)
        waits = present["metadata"].get("finalizers") or (kind == PODS and present["spec"].get("nodeName"))
        if not waits:
            self.remove((kind, namespace, name))
            return None
        if is_going(present):
            return present
        going = copy.deepcopy(present)
        going["metadata"].update(deletionTimestamp=stamp(), deletionGracePeriodSeconds=0)
        return self._write((kind, namespace, name), going)

    def remove(self, key: Key) -> None:
        """It goes at once, and with it what belongs to it alone."""
        gone = copy.deepcopy(self._objects.pop(key))
        self._applied.pop(key, None)
        self._tell("DELETED", key, gone)
        self.collect_garbage()

    def collect_garbage(self) -> None:
        """Delete what has owners, none of which is there."""
        living = {uid_of(one) for one in self._objects.values()}
        for key, one in list(self._objects.items()):
            owners = [owner["uid"] for owner in one["metadata"].get("ownerReferences", [])]
            if owners and not living.intersection(owners) and key in self._objects and not is_going(one):
                self.delete(*key)

    def compact(self) -> None:
        """Forget the history: who watches from before must list again."""
        self.history.clear()
        self.floor = self.version
        self._wake()

    async def changed(self) -> None:
        """Waits for the next change."""
        await self._changed.wait()

    def wake(self) -> None:
        """Lets everybody who waits look again."""
        self._wake()

    def _write(self, key: Key, one: Object) -> Object:
        present = self._objects[key]
        one = copy.deepcopy(one)
        one["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
        if one == present:
            return present
        if one.get("spec") != present.get("spec"):
            one["metadata"]["generation"] = present["metadata"].get("generation", 1) + 1
        self._put("MODIFIED", key, one)
        if is_going(one) and not one["metadata"].get("finalizers") and key[0] != PODS:
            self.remove(key)
        return one

    def _put(self, kind: str, key: Key, one: Object) -> None:
        self._objects[key] = one
        self._tell(kind, key, one)

    def _tell(self, kind: str, key: Key, one: Object) -> None:
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Happening(self.version, kind, key[0], key[1], copy.deepcopy(one)))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _check_version(kind: Resource, present: Object, change: Object) -> None:
    wanted = change.get("metadata", {}).get("resourceVersion")
    if wanted is not None and wanted != present["metadata"]["resourceVersion"]:
        why = "the object has been modified; please apply your changes to the latest version"
        raise statuses.conflict(kind, name_of(present), why)


def merged(one: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, Mapping):
        return copy.deepcopy(change)
    base = dict(one) if isinstance(one, Mapping) else {}
    for name, value in change.items():
        if value is None:
            base.pop(name, None)
        else:
            base[name] = merged(base.get(name), value)
    return base


def stamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that makes `after` of what `before` made."""
    change: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        earlier = before.get(name)
        both = isinstance(value, Mapping) and isinstance(earlier, Mapping)
        change[name] = _difference(earlier, value) if both else value  # type: ignore[arg-type]
    return change
