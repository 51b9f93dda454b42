"""Writes into the ledger, every hour, how much each tenant keeps."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import structlog

from trellis.server.app.ledger_reading import StoredBytes
from trellis.server.app.ports import UnitOfWork
from trellis.server.control.context import ControlContext
from trellis.server.domain.derived import hour_of
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter

_log = structlog.get_logger(__name__)
_HOUR: Final = timedelta(hours=1)
_LONGEST: Final = timedelta(days=31)
"""So far back hours are made up for in which no server was there."""


class MeterStorage:
    """Settles each hour once it is over: the bytes that were made before its end and are still there.

    The entries' keys are made of the hour, so that of several servers one writes them. Hours in which no server was there
    are made up for in the same way, from what is there now; what was deleted meanwhile is not counted.
    """

    name = "meter_storage"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._done: datetime | None = None
        """The newest hour that is known to be settled."""

    async def once(self) -> bool:
        """The hours that are over and not settled."""
        hour = hour_of(self._context.now()) - _HOUR
        if self._done is not None and self._done >= hour:
            return False
        async with self._context.units() as unit:
            await unit.ledger.lock_metering()
            known = [time for time in (self._done, await unit.ledger.metered_until()) if time is not None]
            first = max(max(known) + _HOUR, hour - _LONGEST) if known else hour
            count = 0
            while first <= hour:
                count += await self._settle(unit, first)
                first += _HOUR
            await unit.commit()
        self._done = hour
        _log.info("storage_metered", until=hour.isoformat(), entries=count)
        return False

    async def _settle(self, unit: UnitOfWork, hour: datetime) -> int:
        kept = await unit.ledger.stored_bytes(hour + _HOUR)
        entries = [entry for tenant, sizes in kept.items() for entry in self._entries(tenant, sizes, hour)]
        return len(await unit.ledger.append(entries))

    def _entries(self, tenant: str, sizes: StoredBytes, hour: datetime) -> Iterator[LedgerEntry]:
        settings, now = self._context.settings, self._context.now()
        found = {Meter.DATASET_BYTE_HOURS: sizes.dataset, Meter.ARTIFACT_BYTE_HOURS: sizes.artifact}
        for meter, quantity in found.items():
            if quantity:
                key, price = f"storage{hour.isoformat()}/{meter}", settings.prices.of(meter)
                yield LedgerEntry(tenant, key, EntryKind.SETTLE, meter, quantity, now, price_nanos=price)
