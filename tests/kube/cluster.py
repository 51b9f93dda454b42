"""A cluster of the stand-in: its parts, and clients of it."""

from collections.abc import Collection, Sequence
from pathlib import Path

from kubernetes.aio.client import Configuration

from tests.kube.kubelet import Kubelet
from tests.kube.operator import Operator
from tests.kube.rbac import Rule
from tests.kube.server import TOKEN, KubeServer
from tests.kube.store import Store
from trellis.server.clusters.kuberay.api import KubeApi, Sleep
from trellis.server.clusters.kuberay.connection import Connect
from trellis.server.clusters.kuberay.resources import PERMISSIONS


class Kube:
    """A cluster: its objects, its API, its operator and its node."""

    def __init__(self, folder: Path, permissions: Collection[tuple[str, str, str]] | None = PERMISSIONS) -> None:
        store = Store()
        self._put_together(store, KubeServer(store, permissions), folder)

    def _put_together(self, store: Store, server: KubeServer, folder: Path) -> None:
        self.store = store
        self.server = server
        self.faults = server.faults
        self.kubelet = Kubelet(store, server.logs, folder)
        self.operator = Operator(store, self.kubelet)

    def grant(self, rules: Sequence[Rule]) -> None:
        """From now on the server may do what these rules of a Role say."""
        self.server.rules = rules

    def api(self, namespace: str = "trellis", *, token: str = TOKEN, sleep: Sleep | None = None) -> KubeApi:
        """A client; close it."""
        connect = connect_to(self.server.url, token)
        return KubeApi(namespace, connect) if sleep is None else KubeApi(namespace, connect, sleep=sleep)


def connect_to(url: str, token: str = TOKEN) -> Connect:
    """How to come to it."""

    async def connect() -> Configuration:
        found = Configuration(host=url)
        found.api_key["BearerToken"] = f"Bearer {token}"
        return found

    return connect
