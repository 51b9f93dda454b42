"""When the cluster could not be reached: what could not be submitted then is nobody's failure."""

from datetime import datetime

from trellis.errors import Unavailable
from trellis.server.app.hosts import JobCluster
from trellis.server.control.context import ControlContext


class Outages:
    """Remembers the last time that the cluster did not answer."""

    def __init__(self, context: ControlContext, cluster: JobCluster) -> None:
        self._context = context
        self._cluster = cluster
        self._last: datetime | None = None

    async def runs(self) -> set[str]:
        """The submission ids of all runs that have not ended. Raises Unavailable."""
        try:
            return set(await self._cluster.list())
        except Unavailable:
            self._last = self._context.now()
            raise

    async def start_deadline(self) -> datetime | None:
        """Until when what has not begun may still begin, as the cluster is away or was lately; None if it was not."""
        try:
            await self.runs()
        except Unavailable:
            pass
        if self._last is None:
            return None
        deadline = self._last + self._context.settings.start_timeout
        return deadline if deadline > self._context.now() else None
