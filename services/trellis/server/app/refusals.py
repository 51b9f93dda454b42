"""Calls that were refused, in the audit trail: written beside the answer, and no more than the trail can bear."""

import asyncio
import ipaddress
from datetime import datetime
from typing import Final

import structlog

from trellis.server.app.audit import Actor
from trellis.server.app.ports import Clock, UnitOfWorkFactory
from trellis.server.domain.audit import AuditEvent
from trellis.server.domain.blanking import blanked

PER_SOURCE: Final = 30
"""Refusals that one source has written a minute."""
PER_MINUTE: Final = 300
"""Refusals that all sources together have written a minute, by one server."""
_MAX_NAME: Final = 300
_log = structlog.get_logger(__name__)


class Refusals:
    """Writes refused calls; what goes beyond the bounds is counted, and the count stands in the next minute's first."""

    def __init__(self, units: UnitOfWorkFactory, clock: Clock) -> None:
        self._units = units
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._minute: datetime | None = None
        self._written: dict[str, int] = {}
        self._left_out = 0
        self._left_out_before = 0

    def note(self, actor: Actor, status: str, tenant: str | None, resource: str) -> None:
        """Have it written, soon, if there is room; `tenant` is the caller's own: what it asked for was not touched."""
        now = self._clock.now()
        if not self._has_room(actor.source, now):
            self._left_out += 1
            return
        event = AuditEvent(
            time=now,
            tenant=tenant,
            principal=actor.principal,
            role=actor.role,
            method=actor.method,
            resource=blanked(resource[:_MAX_NAME]),
            source=actor.source,
            request_id=actor.request_id,
            status=status,
            after={"refusals_left_out": self._left_out_before} if self._left_out_before else {},
        )
        self._left_out_before = 0
        task = asyncio.create_task(self._write(event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._tasks)

    def _has_room(self, source: str, now: datetime) -> bool:
        minute = now.replace(second=0, microsecond=0)
        if minute != self._minute:
            self._minute, self._written = minute, {}
            self._left_out_before += self._left_out
            self._left_out = 0
        key = _network(source)
        count = self._written.get(key, 0)
        if count >= PER_SOURCE or sum(self._written.values()) >= PER_MINUTE:
            return False
        self._written[key] = count + 1
        return True

    async def _write(self, event: AuditEvent) -> None:
        try:
            async with self._units() as unit:
                await unit.audit.append(event)
                await unit.commit()
        except Exception as error:  # noqa: BLE001 - the edge of a task; the call was answered, and the log has it too
            _log.warning("refusal_not_written", method=event.method, status=event.status, why=str(error))


def _network(source: str) -> str:
    """Whom the bound is for: one who has an IPv6 address mostly has a whole network of them."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if address.version == 4:
        return source
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
