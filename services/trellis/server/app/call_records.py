"""Records what calls of models took, those that end at the same time in one transaction.

A call's answer ends when its record is committed, so that whoever has heard the end of it finds it in the ledger.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from trellis.errors import Unavailable
from trellis.server.app.batches import Batches
from trellis.server.app.call_gate import CallGate, Passed
from trellis.server.app.ports import Clock, RowsHeld, UnitOfWorkFactory
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.prices import Prices

_log = structlog.get_logger(__name__)
_REST: Final = 0.02
"""Seconds between the beginnings of two transactions while calls end at once, so that they are few."""
_APART_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What a call took, and what it was let through with."""

    key: str
    """What makes it single in the ledger."""
    tenant: str
    """Empty where nobody is to be charged."""
    adapter: str
    base_model: str
    prices: Prices
    tokens: tuple[tuple[Meter, int], ...]
    passed: Passed | None = None
    used: int = 0
    """Tokens, as the tenant's rate has them."""

    def entries(self, now: datetime) -> list[LedgerEntry]:
        """For the ledger, which is written now."""
        return [
            LedgerEntry(
                tenant=self.tenant,
                key=f"{self.key}-inference_{meter.lower()}",
                kind=EntryKind.SETTLE,
                meter=meter,
                quantity=quantity,
                time=now,
                adapter=self.adapter,
                base_model=self.base_model,
                price_nanos=self.prices.of(meter, self.base_model),
            )
            for meter, quantity in self.tokens
            if quantity and self.tenant
        ]


CallRecords = Batches[CallRecord, None]


def call_records(units: UnitOfWorkFactory, clock: Clock, gate: CallGate) -> CallRecords:
    """The records of this server's calls."""

    async def write(records: Sequence[CallRecord]) -> Sequence[Exception | None]:
        try:
            await together(records)
        except Exception as error:
            if len(records) == 1 or (isinstance(error, Unavailable) and not isinstance(error, RowsHeld)):
                raise  # nobody would be better off alone
            # One whose tenant is gone, or locked, must not cost the others their record. Nothing was written.
            _log.warning("call_records_apart", calls=len(records), why=type(error).__name__)
            return await apart(records)
        return [None] * len(records)

    async def together(records: Sequence[CallRecord]) -> None:
        async with units() as unit:
            now = clock.now()
            await unit.ledger.append([entry for record in records for entry in record.entries(now)])
            await gate.correct_all(
                unit, clock, [(record.passed, record.used) for record in records if record.passed is not None]
            )
            await unit.commit()

    async def apart(records: Sequence[CallRecord]) -> Sequence[Exception | None]:
        free = asyncio.Semaphore(_APART_AT_ONCE)
        found: dict[int, Exception | None] = {}

        async def of_one_tenant(places: Sequence[int]) -> None:
            async with free:
                try:
                    await together([records[place] for place in places])
                    found.update(dict.fromkeys(places))
                except Exception as error:  # noqa: BLE001 - its calls raise it
                    if len(places) == 1 or isinstance(error, Unavailable):
                        found.update(dict.fromkeys(places, error))
            await asyncio.gather(*(of_one_tenant([place]) for place in places if place not in found))

        by_tenant: dict[str, list[int]] = {}
        for place, record in enumerate(records):
            by_tenant.setdefault(record.passed.tenant if record.passed else record.tenant, []).append(place)
        await asyncio.gather(*map(of_one_tenant, by_tenant.values()))
        return [found[place] for place in range(len(records))]

    return Batches(write, rest=_REST)
