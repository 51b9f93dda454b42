"""What engines run, declared in their RayService: KubeRay tells it to Serve, also to the one of a new head."""

import json
from collections.abc import Mapping
from typing import Any, Final

import yaml

from trellis.errors import Reason, Unavailable
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.cluster_sight import ClusterSight
from trellis.server.clusters.kuberay.manifests import engines_name
from trellis.server.clusters.kuberay.refusals import Conflict
from trellis.server.clusters.kuberay.resources import RAY_SERVICES, Object, is_going, version_of
from trellis.server.clusters.kuberay.settings import KubeRaySettings
from trellis.server.clusters.serve_applications import Applications

_STATUSES: Final = ("pendingServiceStatus", "activeServiceStatus")
"""In KubeRay's status; what the active cluster says is the last word."""
_TRIES: Final = 5
"""KubeRay writes the status of the same object, which is then another version."""
_STARTING: Final = "The engines' cluster is starting."


class RayServiceApplications:
    """`Applications` whose declaration is `spec.serveConfigV2`, so that a head that is lost does not lose them.

    What Serve says of them is asked of its dashboard. KubeRay makes that reachable only when all that a first cluster runs
    is up; until then it is read from the status of the RayService.
    """

    def __init__(self, api: KubeApi, settings: KubeRaySettings, dashboard: Applications) -> None:
        self._api = api
        self._name = engines_name(settings)
        self._dashboard = dashboard
        self._sight = ClusterSight(api, settings)

    async def present(self) -> dict[str, dict[str, Any]]:
        """By name: what Serve says of each that is declared, and of each that it still has."""
        service = await self._service()
        declared = {str(app["name"]): app for app in _declared(service)}
        try:
            said = await self._dashboard.present()
        except Unavailable:
            if _is_up(service):
                raise
            said = await self._as_told(service, declared)
        present = {name: {**app, "deployed_app_config": None} for name, app in said.items()}
        for name, config in declared.items():
            known = present.get(name, {"status": "NOT_STARTED", "message": _STARTING})
            present[name] = {**known, "deployed_app_config": config}
        return present

    async def declare(self, config: Mapping[str, Any]) -> None:
        """Have Serve run just what this configuration says, now and after the loss of its head."""
        read = service = await self._service()
        for _ in range(_TRIES):
            # Only onto what was read: another server may have declared something meanwhile.
            change = {
                "metadata": {"resourceVersion": version_of(service)},
                "spec": {"serveConfigV2": json.dumps(config, sort_keys=True)},
            }
            try:
                await self._api.patch(RAY_SERVICES, self._name, change)
            except Conflict:
                service = await self._service()
                if _served(service) != _served(read):
                    raise
            else:
                return
        raise Unavailable(
            Reason.ENGINE_UNAVAILABLE, f"The RayService {self._name!r} changes too fast.", retry_after=2.0
        )

    async def close(self) -> None:
        """Closes the connections to the dashboard."""
        await self._dashboard.close()

    async def _service(self) -> Object:
        service = await self._api.get(RAY_SERVICES, self._name)
        if service is None or is_going(service):
            message = f"The RayService {self._name!r} of the engines is not there; it is made within seconds."
            raise Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=2.0)
        return service

    async def _as_told(self, service: Object, declared: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        status = service.get("status") or {}
        told: dict[str, dict[str, Any]] = {}
        for which in _STATUSES:
            for name, app in ((status.get(which) or {}).get("applicationStatuses") or {}).items():
                # What runs can't be called before the cluster's services are there.
                state = "DEPLOYING" if app.get("status") == "RUNNING" else app.get("status")
                told[str(name)] = {**app, "status": state}
        told = {name: told.get(name, {"status": "NOT_STARTED"}) for name in {**told, **declared}}
        trouble = await self._sight.trouble(service)
        message = trouble.message if trouble else _STARTING
        return {name: {**app, "message": app.get("message") or message} for name, app in told.items()}


def _is_up(service: Object) -> bool:
    conditions = (service.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _served(service: Object) -> str:
    return str(service["spec"].get("serveConfigV2") or "")


def _declared(service: Object) -> list[dict[str, Any]]:
    try:
        config = yaml.safe_load(_served(service))
    except yaml.YAMLError:  # somebody else's: it is written anew
        return []
    applications = config.get("applications") if isinstance(config, dict) else None
    return [app for app in applications if isinstance(app, dict) and "name" in app] if applications else []
