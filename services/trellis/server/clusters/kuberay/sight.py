"""Sees what keeps a run from starting, or ended it from outside, by its pods and what is said of them."""

from collections.abc import Sequence
from typing import Final

from trellis.errors import Unavailable
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.informer import Informer
from trellis.server.clusters.kuberay.pods import RUN
from trellis.server.clusters.kuberay.resources import EVENTS, PODS, Object, name_of
from trellis.server.clusters.kuberay.troubles import run_trouble
from trellis.server.domain.run_trouble import RunTrouble

_MOST_PODS: Final = 20
"""Of a run whose events are read one by one, where no watch is open."""


class TroubleSight:
    """Looks at the copies that two watches keep, else asks Kubernetes; all of it is only a hint."""

    def __init__(self, api: KubeApi, selector: str) -> None:
        self._api = api
        self._selector = selector
        self._pods = Informer(api, PODS, selector)
        self._events = Informer(api, EVENTS)

    async def close(self) -> None:
        """Ends the watches."""
        await self._pods.close()
        await self._events.close()

    async def trouble(self, ray_job: Object) -> RunTrouble | None:
        """What is wrong with the run, if anything is; None too where it can't be read."""
        self._pods.start()
        self._events.start()
        try:
            pods = await self._pods_of(name_of(ray_job))
            cluster = str((ray_job.get("status") or {}).get("rayClusterName") or "")
            names = [name_of(ray_job), *([cluster] if cluster else []), *map(name_of, pods)]
            events = await self._events_of(names, name_of(ray_job))
        except Unavailable:
            return None
        return run_trouble(pods, events, ray_job)

    async def _pods_of(self, run: str) -> Sequence[Object]:
        if self._pods.is_fresh:
            return [pod for pod in self._pods.items() if pod["metadata"].get("labels", {}).get(RUN) == run]
        return (await self._api.list(PODS, f"{self._selector},{RUN}={run}")).items

    async def _events_of(self, names: Sequence[str], run: str) -> Sequence[Object]:
        if self._events.is_fresh:
            return [event for event in self._events.items() if _is_of(event, {*names}, run)]
        found: list[Object] = []
        for name in names[: _MOST_PODS + 2]:
            found += (await self._api.list(EVENTS, fields=f"involvedObject.name={name}")).items
        return found


def _is_of(event: Object, names: set[str], run: str) -> bool:
    about = str(event["involvedObject"].get("name") or "")
    # KubeRay names the Ray cluster and its pods, also those that are gone, after the RayJob; Kueue so its Workload.
    return about in names or about.startswith((f"{run}-", f"rayjob-{run}-"))
