"""What use cases write into the audit trail: each change, in the transaction that makes it."""

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from trellis.names import tenant_of
from trellis.server.app.audit_fields import Audited, changes, described
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.audit import AuditEvent
from trellis.server.domain.blanking import blanked

PLATFORM_PRINCIPAL: Final = "platform"
OK: Final = "OK"
_MAX_NAME = 300


@dataclass(slots=True)
class Actor:
    """Who makes the call that is being answered, and what came of it so far."""

    principal: str
    role: str
    method: str
    """Such as `/trellis.v1.TenantService/UpdateTenant`."""
    source: str
    """The caller's address."""
    request_id: str
    commits: int = 0
    """Transactions that were committed for the call."""
    records: int = 0
    """Changes that were recorded, or found to change nothing."""

    @property
    def forgot(self) -> bool:
        """Whether something was changed, and no use case said what."""
        return self.commits > 0 and self.records == 0


_actor: ContextVar[Actor | None] = ContextVar("trellis_actor", default=None)


class Timed(Protocol):
    """What knows the time."""

    def now(self) -> datetime:
        """The time."""
        ...


def act_as(actor: Actor) -> None:
    """From now on this task, and those that it begins, act for this caller."""
    _actor.set(actor)


async def record(
    context: Timed,
    unit: UnitOfWork,
    before: Audited | None,
    after: Audited | None,
    *,
    name: str = "",
    deed: str = "",
) -> None:
    """Write what became of a resource into the trail, in the same transaction; nothing if nothing of it changed.

    `before` is None for what is new, `after` for what was deleted. `name` is needed where the resource does not know its
    own; `deed` says what it is where no call asked for it, which is then the platform's.
    """
    actor = _actor.get()
    if actor is not None:
        actor.records += 1
    was, now_is = changes(before, after)
    if before is not None and after is not None and was == now_is:
        return
    resource = name or described(after if after is not None else before)
    await unit.audit.append(
        AuditEvent(
            time=context.now(),
            tenant=tenant_of(resource),
            principal=actor.principal if actor else PLATFORM_PRINCIPAL,
            role=actor.role if actor else "",
            method=actor.method if actor else deed,
            resource=blanked(resource[:_MAX_NAME]),
            source=actor.source if actor else "",
            request_id=actor.request_id if actor else "",
            status=OK,
            before=was,
            after=now_is,
        )
    )


def unchanged() -> None:
    """Say that the call, though it committed something, changed nothing that anybody would audit."""
    actor = _actor.get()
    if actor is not None:
        actor.records += 1


def committed() -> None:
    """Count a committed transaction for the call that it was done for, if it was for one."""
    actor = _actor.get()
    if actor is not None:
        actor.commits += 1
