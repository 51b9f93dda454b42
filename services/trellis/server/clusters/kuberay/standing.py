"""The clusters that stay: a RayCluster for shared trainers and exports, a RayService for engines."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import KeptCluster
from trellis.server.clusters.kuberay import manifests
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.cluster_sight import ClusterSight
from trellis.server.clusters.kuberay.likeness import covers
from trellis.server.clusters.kuberay.owner import Owner
from trellis.server.clusters.kuberay.pods import INSTANCE
from trellis.server.clusters.kuberay.refusals import Conflict
from trellis.server.clusters.kuberay.resources import RAY_CLUSTERS, RAY_SERVICES, Object, Resource, is_going, version_of
from trellis.server.clusters.kuberay.settings import ClusterSettings, KubeRaySettings

NOTHING_SERVED: Final = '{"applications": []}'
"""What an engines' cluster runs until engines are declared."""
_TRIES: Final = 5
_AUTOSCALERS: Final = frozenset({"replicas", "scaleStrategy"})
"""Of a group: what Ray's autoscaler writes."""


class KubeRayStanding:
    """`StandingClusters` over KubeRay's objects; see app.hosts.

    They are applied as Kubernetes means it: what the settings say is ours, also what is taken out of them, and all else is
    left as others wrote it: the autoscaler, Kueue, and what engines run.
    """

    def __init__(self, api: KubeApi, settings: KubeRaySettings) -> None:
        self._api = api
        self._settings = settings
        self._owner = Owner(api, settings)
        self._sight = ClusterSight(api, settings)

    async def keep(self) -> Sequence[KeptCluster]:
        """Makes those that are missing and corrects those that are not as the settings say."""
        settings, owner = self._settings, await self._owner.reference()
        kept = []
        if settings.trainers is not None:
            wanted = manifests.trainers_cluster(settings, settings.trainers, owner)
            kept.append(await self._keep(RAY_CLUSTERS, wanted, settings.trainers))
        if settings.engines is not None:
            wanted = manifests.engines_service(settings, settings.engines, NOTHING_SERVED, owner)
            del wanted["spec"]["serveConfigV2"]
            kept.append(await self._keep(RAY_SERVICES, wanted, settings.engines))
            await self._serve_nothing(str(wanted["metadata"]["name"]))
        return kept

    async def _keep(self, resource: Resource, wanted: Object, cluster: ClusterSettings) -> KeptCluster:
        for _ in range(_TRIES - 1):
            try:
                return await self._keep_once(resource, wanted, cluster)
            except Conflict:
                continue  # who changed it meanwhile is looked at, be it only KubeRay's word on it
        return await self._keep_once(resource, wanted, cluster)

    async def _keep_once(self, resource: Resource, wanted: Object, cluster: ClusterSettings) -> KeptCluster:
        name = str(wanted["metadata"]["name"])
        live = await self._api.get(resource, name)
        if live is None:
            await self._api.apply(resource, wanted)
            return KeptCluster(name, "made")
        if is_going(live):
            return KeptCluster(name)  # made anew when it is gone
        if (live["metadata"].get("labels") or {}).get(INSTANCE) != self._settings.name:
            message = (
                f"Another's {resource.kind} {name!r} is in the way: delete it, or give this installation a new name."
            )
            raise Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=30.0)
        scaled = _as_scaled(wanted, live) if cluster.autoscales else wanted
        change = ""
        if not _is_kept(scaled, live):
            # Only as it was read: the autoscaler may have changed it meanwhile.
            metadata = {**scaled["metadata"], "resourceVersion": version_of(live)}
            await self._api.apply(resource, {**scaled, "metadata": metadata})
            change = "corrected"
        return KeptCluster(name, change, await self._sight.trouble(live))

    async def _serve_nothing(self, name: str) -> None:
        """A RayService that says not even that is one that KubeRay stumbles over."""
        # KubeRay writes its word on a new one just then. If it always does, the next round goes on.
        for _ in range(_TRIES):
            live = await self._api.get(RAY_SERVICES, name)
            if live is None or live["spec"].get("serveConfigV2"):
                return
            change = {"metadata": {"resourceVersion": version_of(live)}, "spec": {"serveConfigV2": NOTHING_SERVED}}
            with suppress(Conflict):
                await self._api.patch(RAY_SERVICES, name, change)


def _is_kept(wanted: Object, live: Object) -> bool:
    parts = ("labels", "annotations", "ownerReferences")
    described = {part: wanted["metadata"][part] for part in parts if part in wanted["metadata"]}
    return covers(live["metadata"], described) and covers(live.get("spec"), wanted["spec"])


def _as_scaled(wanted: Object, live: Object) -> Object:
    """With as many workers as the autoscaler has chosen, within bounds, and those that it wants to be rid of."""
    path = ("rayClusterConfig",) if wanted["kind"] == RAY_SERVICES.kind else ()
    there = {group["groupName"]: group for group in _inner(live["spec"], path).get("workerGroupSpecs") or ()}
    groups = [
        _scaled(group, there.get(group["groupName"], {})) for group in _inner(wanted["spec"], path)["workerGroupSpecs"]
    ]
    cluster = {**_inner(wanted["spec"], path), "workerGroupSpecs": groups}
    return {**wanted, "spec": {**wanted["spec"], path[0]: cluster} if path else cluster}


def _inner(spec: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    inner: Mapping[str, Any] = spec[path[0]] if path else spec
    return inner


def _scaled(group: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: there[name] for name in _AUTOSCALERS if name in there}
    if "replicas" in chosen:
        chosen["replicas"] = min(max(int(chosen["replicas"]), group["minReplicas"]), group["maxReplicas"])
    return {**group, **chosen}
