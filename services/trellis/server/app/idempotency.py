"""Creates that may be repeated: the same request_id gives the same resource again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from trellis.errors import AlreadyExists, Reason
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.remembered_request import RememberedRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A create's request_id, empty if none was sent, and the sha256 of the whole request, in hex."""

    request_id: str = ""
    fingerprint: str = ""

    def check(self, violations: Violations) -> None:
        """Note what is wrong with the id."""
        violations.text(self.request_id, "request_id")


async def create_once(
    context: Context,
    scope: str,
    key: RequestKey,
    create: Callable[[UnitOfWork], Awaitable[tuple[str, T]]],
    read: Callable[[UnitOfWork, str], Awaitable[T]],
) -> T:
    """Create, in one transaction with the memory of it, unless that was done; `create` gives the name and the resource.

    Of two that come at once, the slower one finds what the faster one made.
    """
    try:
        return await _try_once(context, scope, key, create, read)
    except AlreadyExists:
        if not key.request_id:
            raise
    return await _try_once(context, scope, key, create, read)


async def _try_once(
    context: Context,
    scope: str,
    key: RequestKey,
    create: Callable[[UnitOfWork], Awaitable[tuple[str, T]]],
    read: Callable[[UnitOfWork, str], Awaitable[T]],
) -> T:
    async with context.units() as unit:
        if name := await _remembered(unit, scope, key):
            return await read(unit, name)
        name, made = await create(unit)
        if key.request_id:
            request = RememberedRequest(scope, key.request_id, key.fingerprint, name, context.now())
            await unit.requests.add(request)
        await unit.commit()
        return made


async def _remembered(unit: UnitOfWork, scope: str, key: RequestKey) -> str:
    found = await unit.requests.get(scope, key.request_id) if key.request_id else None
    if found is None:
        return ""
    if found.fingerprint != key.fingerprint:
        message = f"The request_id {key.request_id!r} was used before with another request; use a fresh one."
        raise AlreadyExists(Reason.REQUEST_ID_REUSED, message, metadata={"request_id": key.request_id})
    return found.resource
