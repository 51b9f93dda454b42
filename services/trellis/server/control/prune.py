"""Forgets what nobody asks for any more, so that its tables do not grow for ever."""

from datetime import timedelta
from typing import Final

import structlog

from trellis.server.control.context import ControlContext
from trellis.server.domain import remembered_request

_TRAINERS_KEPT: Final = timedelta(days=7)
_BATCH: Final = 1000
"""So many requests are forgotten in one transaction, so that no create waits for long."""
_log = structlog.get_logger(__name__)


class Prune:
    """Deletes the rows of trainers that ended a week ago and were cleared away, and of creates that were answered a week ago.

    Of each base the newest trainer that said how fast it trains stays, from which jobs are estimated.
    """

    name = "prune"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look; whether there are more requests to forget."""
        now = self._context.now()
        async with self._context.units() as unit:
            trainers = await unit.trainers.prune(now - _TRAINERS_KEPT)
            await unit.commit()
        async with self._context.units() as unit:
            requests = await unit.requests.prune(now - remembered_request.KEPT, _BATCH)
            await unit.commit()
        if trainers or requests:
            _log.info("pruned", trainers=trainers, requests=requests)
        return requests == _BATCH
