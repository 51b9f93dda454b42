"""How the server comes to Kubernetes: by its service account in a pod, else by a kubeconfig."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from trellis.errors import Reason, Unavailable

Connect = Callable[[], Awaitable[Configuration]]
"""Finds the address and the credentials."""


async def in_cluster_or_kubeconfig() -> Configuration:
    """The pod's service account, whose token is read again each minute; outside a pod $KUBECONFIG or ~/.kube/config.

    Raises Unavailable where there is neither.
    """
    found = Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(found)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(client_configuration=found, persist_config=False)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        message = (
            f"Kubernetes can't be reached, as there is neither a service account nor a kubeconfig: {error} In a pod, mount"
            " the service account's token; elsewhere, set KUBECONFIG."
        )
        raise Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=30.0) from error
    return found


def kubeconfig(path: Path) -> Connect:
    """One that reads this file."""

    async def connect() -> Configuration:
        found = Configuration()
        await config.load_kube_config(str(path), client_configuration=found, persist_config=False)  # type: ignore[no-untyped-call]
        return found

    return connect
