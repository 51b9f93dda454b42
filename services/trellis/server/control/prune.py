"""Forgets trainers that have been over for long, so that their table does not grow for ever."""

from datetime import timedelta
from typing import Final

import structlog

from trellis.server.control.context import ControlContext

_log = structlog.get_logger(__name__)
_KEPT: Final = timedelta(days=7)


class PruneTrainers:
    """Deletes the rows of trainers that ended a week ago and were cleared away; of each base the newest one that said how fast
    it trains stays, from which jobs are estimated.
    """

    name = "prune"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look."""
        async with self._context.units() as unit:
            count = await unit.trainers.prune(self._context.now() - _KEPT)
            await unit.commit()
        if count:
            _log.info("trainers_pruned", count=count)
        return False
