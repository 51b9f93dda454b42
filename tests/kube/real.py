"""A namespace of a real cluster, in which KubeRay's operator and the kubelet are played as on the stand-in."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.kube.cluster import Kube
from tests.kube.kinds import CUSTOM
from tests.kube.rbac import Rule
from tests.kube.real_server import RealServer
from tests.kube.real_store import LABEL, RealStore
from tests.kube.statuses import StatusError
from trellis.server.clusters.kuberay.resources import PERMISSIONS, PODS, RAY_JOBS, Object, name_of

Permissions = frozenset[tuple[str, str, str]]
_RBAC: Final = "rbac.authorization.k8s.io"
_SECONDS: Final = 30.0


class RealKube(Kube):
    """The same parts, over the cluster's own objects."""

    def __init__(self, store: RealStore, tokens: dict[Permissions, str], folder: Path) -> None:
        self._real_store, self._door = store, RealServer(store, tokens, PERMISSIONS)
        self._put_together(store, self._door, folder)

    def grant(self, rules: Sequence[Rule]) -> None:
        self._door.token = account_token(self._real_store, f"granted-{uuid.uuid4().hex[:8]}", rules)


@contextmanager
def real_kube(kubeconfig: Path, folder: Path) -> Iterator[RealKube]:
    """One with a namespace of its own, which goes at the end. Skips the test where the cluster lacks something."""
    store = RealStore(kubeconfig)
    try:
        _look_for_kuberay(store)
        with namespace_of(store):
            rules = [{"apiGroups": [group], "resources": [what], "verbs": [verb]} for group, what, verb in PERMISSIONS]
            server, nobody = account_token(store, "trellis-server", rules), account_token(store, "nobody", ())
            yield RealKube(store, {PERMISSIONS: server, frozenset(): nobody}, folder)
    finally:
        store.close()


@contextmanager
def namespace_of(store: RealStore) -> Iterator[None]:
    """There for the block, with the account that Kubernetes puts into every one."""
    metadata = {"name": store.real, "labels": LABEL}
    store.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    try:
        end = time.monotonic() + _SECONDS
        while not _is_there(store, f"/api/v1/namespaces/{store.real}/serviceaccounts/default"):
            assert time.monotonic() < end, "the cluster's controllers put no ServiceAccount into a new namespace"
            time.sleep(0.02)
        yield
    finally:
        _clear(store)


def account_token(store: RealStore, name: str, rules: Sequence[Rule]) -> str:
    """Of a new ServiceAccount, with a Role that says that and no more."""
    accounts = f"/api/v1/namespaces/{store.real}/serviceaccounts"
    store.call("POST", accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    named: Object = {"apiVersion": f"{_RBAC}/v1", "metadata": {"name": name}}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": store.real}
    whose = {"roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name}, "subjects": [subject]}
    path = f"/apis/{_RBAC}/v1/namespaces/{store.real}"
    store.call("POST", f"{path}/roles", {**named, "kind": "Role", "rules": [dict(rule) for rule in rules]})
    store.call("POST", f"{path}/rolebindings", {**named, "kind": "RoleBinding", **whose})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    return str(store.call("POST", f"{accounts}/{name}/token", request)["status"]["token"])


def _look_for_kuberay(store: RealStore) -> None:
    try:
        kinds = {one["name"] for one in store.call("GET", "/apis/ray.io/v1")["resources"]}
    except StatusError:
        kinds = set()
    missing = {kind.plural for kind in CUSTOM} - kinds
    if missing:
        pytest.fail(f"the cluster has no {', '.join(sorted(missing))} of ray.io/v1: install KubeRay's definitions")
    running = store.call("GET", "/apis/apps/v1/deployments", labelSelector="app.kubernetes.io/name=kuberay-operator")
    if running["items"]:
        pytest.fail("KubeRay's operator runs in the cluster: the tests play it, and both would be in each other's way")


def _is_there(store: RealStore, path: str) -> bool:
    try:
        store.call("GET", path)
    except StatusError:
        return False
    return True


def _clear(store: RealStore) -> None:
    """Delete the namespace, and what nobody else would: pods that no kubelet has, and objects of the tests' operator."""
    with suppress(StatusError):
        store.call("DELETE", f"/api/v1/namespaces/{store.real}")
    for kind in (RAY_JOBS, PODS):
        with suppress(StatusError):
            for one in store.list(kind, "trellis"):
                with suppress(KeyError):
                    store.remove((kind, "trellis", name_of(one)))
