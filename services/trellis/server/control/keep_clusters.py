"""Keeps the clusters that stay as the settings say, and tells what is wrong with them."""

import structlog

from trellis.errors import Unavailable
from trellis.server.app.hosts import KeptCluster, StandingClusters
from trellis.server.control.context import ControlContext
from trellis.server.control.metrics import CLUSTER_CHANGES, CLUSTER_TROUBLES

_log = structlog.get_logger(__name__)


class KeepClusters:
    """Makes what is missing and corrects what somebody changed; a word in the log for each change."""

    name = "keep_clusters"

    def __init__(self, _context: ControlContext, clusters: StandingClusters) -> None:
        self._clusters = clusters
        self._told: dict[str, KeptCluster] = {}
        self._unreachable = ""

    async def once(self) -> bool:
        """One look at all of them."""
        try:
            kept = await self._clusters.keep()
        except Unavailable as error:
            if str(error) != self._unreachable:
                _log.warning("clusters_not_kept", why=str(error))
            self._unreachable = str(error)
            return False
        self._unreachable = ""
        for one in kept:
            self._tell(one)
        return False

    def _tell(self, one: KeptCluster) -> None:
        if one.change:
            CLUSTER_CHANGES.labels(one.name, one.change).inc()
            _log.info("cluster_kept", cluster=one.name, change=one.change)
        before = self._told.get(one.name)
        old = before.trouble if before else None
        if old and (one.trouble is None or one.trouble.code is not old.code):
            CLUSTER_TROUBLES.labels(one.name, old.code.value).set(0)
        if one.trouble:
            CLUSTER_TROUBLES.labels(one.name, one.trouble.code.value).set(1)
        if one.trouble != old and one.trouble:
            _log.warning("cluster_in_trouble", cluster=one.name, code=one.trouble.code.value, why=one.trouble.message)
        elif one.trouble != old:
            _log.info("cluster_recovered", cluster=one.name)
        self._told[one.name] = one
