"""A step that one server at a time does."""

from collections.abc import Callable
from datetime import timedelta

import structlog
from prometheus_client import Gauge

from trellis.errors import TrellisError
from trellis.server.control.context import DUTY, ControlContext
from trellis.server.control.lease import Lease, LeaseLostError
from trellis.server.control.loop import Step

_HELD = Gauge(
    "trellis_lease_held", "Whether this server does the rounds of a loop that one server at a time does.", ["loop"]
)
_log = structlog.get_logger(__name__)


class OneServer:
    """Does the rounds of a step while this server holds the step's lease.

    `make` gives the step over the guarded context; a fresh one for each time that the lease is acquired, so that
    nothing that the step remembers is older than what another server did meanwhile.
    """

    def __init__(
        self, context: ControlContext, name: str, make: Callable[[ControlContext], Step], length: timedelta = DUTY
    ) -> None:
        self.name = name
        self._lease = Lease(context, name, length)
        self._guarded = self._lease.guard(context)
        self._make = make
        self._step: Step | None = None
        self._token = ""

    async def once(self) -> bool:
        """One round of the step, if it is this server's."""
        try:
            held = await self._lease.hold()
        finally:
            _HELD.labels(self.name).set(self._lease.is_held)
        if not held:
            return False
        if self._step is None or self._token != self._lease.token:
            self._step, self._token = self._make(self._guarded), self._lease.token
        try:
            async with self._lease.kept():
                return await self._step.once()
        except Exception as error:
            if isinstance(error, LeaseLostError) or not self._lease.is_held:
                _log.warning("round_dropped", loop=self.name, why=f"The lease was lost. {error}")
                return False
            raise

    async def leave(self) -> None:
        """Let another server take over at once."""
        _HELD.labels(self.name).set(False)
        try:
            await self._lease.release()
        except TrellisError as error:  # it ends by itself
            _log.warning("lease_not_released", lease=self.name, why=str(error))
