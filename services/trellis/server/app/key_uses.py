"""When API keys were last used: noted in memory as they are, and written down from time to time, off the calls' path."""

from datetime import datetime, timedelta

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.caller import ApiKey

COARSENESS = timedelta(minutes=5)
"""A use is not noted so soon after the one that is known."""


class KeyUses:
    """The uses that this server has still to write down; it loses them when it dies, which only makes times coarser."""

    def __init__(self) -> None:
        self._noted: dict[str, datetime] = {}

    def note(self, key: ApiKey, now: datetime) -> None:
        """A key was used; costs nothing if its last use is known well enough."""
        if key.last_use_time is None or now - key.last_use_time >= COARSENESS:
            self._noted[key.key_id] = now

    async def write(self, units: UnitOfWorkFactory) -> int:
        """Write down what was noted; the number of keys. What can't be written is kept for the next time."""
        noted, self._noted = self._noted, {}
        if not noted:
            return 0
        try:
            async with units() as unit:
                for key_id, time in sorted(noted.items()):  # in one order, so that servers never wait for each other
                    await unit.api_keys.used(key_id, time)
                await unit.commit()
        except Exception:
            self._noted = noted | self._noted
            raise
        return len(noted)
