"""Sees what keeps a cluster that stays, or a part of it, from work."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from trellis.errors import Unavailable
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.manifests import selector
from trellis.server.clusters.kuberay.pods import COMPONENT
from trellis.server.clusters.kuberay.resources import EVENTS, PODS, Object, name_of
from trellis.server.clusters.kuberay.settings import KubeRaySettings
from trellis.server.clusters.kuberay.troubles import is_starting, start_trouble
from trellis.server.domain.run_trouble import RunTrouble

_CLUSTER: Final = "ray.io/cluster"
_MOST: Final = 10
"""Of the objects whose events are asked for."""


class ClusterSight:
    """Asks Kubernetes for the pods of a standing cluster, and for the events of those that don't run."""

    def __init__(self, api: KubeApi, settings: KubeRaySettings) -> None:
        self._api = api
        self._selector = selector(settings)

    async def trouble(self, ray_object: Object) -> RunTrouble | None:
        """What is wrong with it; None too where that can't be read."""
        component = (ray_object["metadata"].get("labels") or {}).get(COMPONENT, "")
        try:
            pods = (await self._api.list(PODS, f"{self._selector},{COMPONENT}={component}")).items
            starting = [pod for pod in pods if is_starting(pod)]
            if pods and not starting:
                return None
            names = list(dict.fromkeys([name_of(ray_object), *_clusters(ray_object, pods), *map(name_of, starting)]))
            found = await asyncio.gather(*(self._events(name) for name in names[:_MOST]))
        except Unavailable:
            return None
        return start_trouble(pods, [event for events in found for event in events], ray_object)

    async def _events(self, name: str) -> Sequence[Object]:
        return (await self._api.list(EVENTS, fields=f"involvedObject.name={name}")).items


def _clusters(ray_object: Object, pods: Sequence[Object]) -> Iterator[str]:
    status = ray_object.get("status") or {}
    for which in ("pendingServiceStatus", "activeServiceStatus"):
        if name := (status.get(which) or {}).get("rayClusterName"):
            yield str(name)
    for pod in pods:
        if name := (pod["metadata"].get("labels") or {}).get(_CLUSTER):
            yield str(name)
