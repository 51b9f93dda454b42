"""The store's part on a real cluster: the same calls, to its API, by whoever plays KubeRay's operator and the kubelet."""

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

import pytest
import urllib3
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config

from tests.kube.kinds import CUSTOM, JOBS
from tests.kube.statuses import StatusError
from tests.kube.store import Key, Store
from trellis.server.clusters.kuberay.resources import EVENTS, PODS, Object, Resource, name_of

LABEL: Final = {"app.kubernetes.io/managed-by": "trellis-tests"}
"""Of the namespaces that tests make."""
_SCHEDULER: Final = "trellis-tests"
"""Of pods that only the tests bind and run; nobody else listens to the name."""
_NOT_MADE: Final = ("priorityClassName", "runtimeClassName", "serviceAccountName")
"""Name objects that tests do not make: some lie in no namespace."""


class RealStore(Store):
    """Objects of a namespace of its own, which the tests call `trellis`; others of theirs are beside it."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__()
        configuration = Configuration()
        load_kube_config(str(kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
        self.url = str(configuration.host).rstrip("/")
        self.authority = configuration.ssl_ca_cert
        self.certificate = (configuration.cert_file, configuration.key_file)
        self.verifies = bool(configuration.verify_ssl)
        token = configuration.get_api_key_with_prefix("authorization")
        self.credentials = {"Authorization": str(token)} if token else {}
        self._http = urllib3.PoolManager(
            ca_certs=configuration.ssl_ca_cert,
            cert_file=configuration.cert_file,
            key_file=configuration.key_file,
            cert_reqs="CERT_REQUIRED" if self.verifies else "CERT_NONE",
        )
        self.real = f"trellis-test-{uuid.uuid4().hex[:10]}"
        self.makes_pods_of_jobs = True

    def close(self) -> None:
        """Lets the connections go."""
        self._http.clear()

    def place(self, namespace: str) -> str:
        """What the tests' namespace is called there: none that the tests have not made is ever touched."""
        return self.real if namespace == "trellis" else f"{self.real}-{namespace}"

    def call(
        self, method: str, path: str, body: object = None, content: str = "application/json", **query: str
    ) -> Object:
        """Ask the API. Raises StatusError."""
        headers = {"Accept": "application/json", "Content-Type": content, **self.credentials}
        where = f"{self.url}{path}{'?' + urlencode(query) if query else ''}"
        data = None if body is None else json.dumps(body)
        said = self._http.request(method, where, body=data, headers=headers)
        text = said.data.decode().replace(self.real, "trellis")
        if said.status >= 300:
            raise StatusError(said.status, "", text)
        found: Object = json.loads(text)
        return found

    def create(self, kind: Resource, namespace: str, one: Object) -> Object:
        one = self.before_create(kind, json.loads(json.dumps(one)))
        one["metadata"].pop("namespace", None)
        if kind == EVENTS:  # of an object there
            one["involvedObject"]["namespace"] = self.place(namespace)
        if kind in {PODS, JOBS}:
            spec = one["spec"] if kind == PODS else one["spec"]["template"]["spec"]
            spec["schedulerName"] = _SCHEDULER
            for name in _NOT_MADE:
                spec.pop(name, None)
        return self.call("POST", kind.path(self.place(namespace)), one)

    def get(self, kind: Resource, namespace: str, name: str) -> Object:
        return self.call("GET", kind.path(self.place(namespace), name))

    def has(self, kind: Resource, namespace: str, name: str) -> bool:
        return any(name_of(one) == name for one in self.list(kind, namespace))

    def list(self, kind: Resource, namespace: str) -> list[Object]:
        found = self.call("GET", kind.path(self.place(namespace)))["items"]
        named = {"apiVersion": kind.api_version, "kind": kind.kind}
        return sorted(({**named, **one} for one in found if _is_of_tests(kind, one)), key=name_of)

    def patch(self, kind: Resource, namespace: str, name: str, change: Object) -> Object:
        return self.call("PATCH", kind.path(self.place(namespace), name), change, "application/merge-patch+json")

    def set_status(self, kind: Resource, namespace: str, name: str, status: Mapping[str, Any]) -> Object:
        present = self.get(kind, namespace, name)
        changed = {**present, "status": {**present.get("status", {}), **status}}
        if changed == present:
            return present
        return self.call("PUT", kind.path(self.place(namespace), name) + "/status", self._mine(changed, namespace))

    def replace(self, kind: Resource, namespace: str, name: str, one: Object) -> Object:
        path = kind.path(self.place(namespace), name)
        if kind == PODS:  # of a running pod only this may change
            target = {"apiVersion": "v1", "kind": "Node", "name": one["spec"]["nodeName"]}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            return self.call("POST", f"{path}/binding", body)
        return self.call("PUT", path, self._mine(one, namespace))

    def delete(
        self, kind: Resource, namespace: str, name: str, options: Mapping[str, Any] | None = None
    ) -> Object | None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", **(options or {})}
        found = self.call("DELETE", kind.path(self.place(namespace), name), body)
        return None if found["kind"] == "Status" else found

    def remove(self, key: Key) -> None:
        kind, namespace, name = key
        if kind in CUSTOM:
            self.patch(kind, namespace, name, {"metadata": {"finalizers": None}})
        try:
            self.delete(kind, namespace, name, {"gracePeriodSeconds": 0})
        except StatusError as error:
            raise KeyError(key) from error

    def collect_garbage(self) -> None:
        """The cluster does it."""

    def compact(self) -> NoReturn:
        only_the_stand_in("forgets its history when it is told to")

    async def changed(self) -> None:
        await asyncio.sleep(0.05)

    def _mine(self, one: Object, namespace: str) -> Object:
        return {**one, "metadata": {**one["metadata"], "namespace": self.place(namespace)}}


def only_the_stand_in(does: str) -> NoReturn:
    """Skips a test that asks for what a cluster can't be brought to do."""
    pytest.skip(f"only the stand-in {does}")


def _is_of_tests(kind: Resource, one: Object) -> bool:
    """Not what a cluster puts into every namespace."""
    if kind.plural == "configmaps":
        return name_of(one) != "kube-root-ca.crt"
    return not (kind.plural == "secrets" and one.get("type") == "kubernetes.io/service-account-token")
