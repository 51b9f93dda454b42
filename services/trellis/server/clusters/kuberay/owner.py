"""What the objects of an installation belong to, so that they go with it."""

from typing import Any

from trellis.errors import Reason, Unavailable
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.resources import CONFIG_MAPS, uid_of
from trellis.server.clusters.kuberay.settings import KubeRaySettings


class Owner:
    """The ConfigMap of the settings, read once."""

    def __init__(self, api: KubeApi, settings: KubeRaySettings) -> None:
        self._api = api
        self._name = settings.owner
        self._reference: dict[str, Any] | None = None

    async def reference(self) -> dict[str, Any] | None:
        """What stands in the objects' ownerReferences; None where the settings name no owner. Raises Unavailable."""
        if self._name and self._reference is None:
            found = await self._api.get(CONFIG_MAPS, self._name)
            if found is None:
                message = (
                    f"The namespace {self._api.namespace!r} has no ConfigMap {self._name!r}, to which what Trellis makes"
                    " should belong: correct `owner` in the file of TRELLIS_KUBERAY_FILE."
                )
                raise Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=30.0)
            self._reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": self._name, "uid": uid_of(found)}
        return self._reference
