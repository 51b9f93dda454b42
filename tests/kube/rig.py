"""The stand-in, running, and clients of it."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from kubernetes.aio.client import Configuration

from tests.kube.kubelet import Kubelet
from tests.kube.operator import Operator
from tests.kube.server import TOKEN, KubeServer
from tests.kube.store import Store
from trellis.server.clusters.kuberay.api import KubeApi, Sleep
from trellis.server.clusters.kuberay.connection import Connect
from trellis.server.clusters.kuberay.resources import PERMISSIONS


class Kube:
    """A cluster: its objects, its API, its operator and its node."""

    def __init__(self, folder: Path, permissions: Collection[tuple[str, str, str]] | None = PERMISSIONS) -> None:
        self.store = Store()
        self.server = KubeServer(self.store, permissions)
        self.faults = self.server.faults
        self.kubelet = Kubelet(self.store, self.server.logs, folder)
        self.operator = Operator(self.store, self.kubelet)

    def api(self, namespace: str = "trellis", *, token: str = TOKEN, sleep: Sleep | None = None) -> KubeApi:
        """A client; close it."""
        connect = connect_to(self.server.url, token)
        return KubeApi(namespace, connect) if sleep is None else KubeApi(namespace, connect, sleep=sleep)


@asynccontextmanager
async def kube(folder: Path) -> AsyncIterator[Kube]:
    """One that runs until the end of the block."""
    one = Kube(folder)
    await one.server.start()
    one.operator.start()
    try:
        yield one
    finally:
        await one.operator.close()
        await one.server.stop()


def connect_to(url: str, token: str = TOKEN) -> Connect:
    """How to come to it."""

    async def connect() -> Configuration:
        found = Configuration(host=url)
        found.api_key["BearerToken"] = f"Bearer {token}"
        return found

    return connect
