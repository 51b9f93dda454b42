"""The call that is being answered: who makes it, and under which id."""

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass

import grpc

from trellis.server.app.audit import Actor
from trellis.server.domain.blanking import blanked
from trellis.server.domain.caller import Caller
from trellis.server.rpc.peer import address_of

REQUEST_ID = "x-request-id"
VERSION = "x-trellis-version"
"""Under which each answer says the server's version."""
_SOUND = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(slots=True)
class Call:
    """One call; the caller is known once it was authenticated."""

    method: str
    request_id: str
    caller: Caller | None = None
    source: str = ""
    """The caller's address."""
    resource: str = ""
    """What the request names, if it was read so far."""

    def actor(self) -> Actor:
        """As the audit trail has it: who calls, as far as that is known."""
        caller = self.caller
        role = caller.role.name if caller else ""
        return Actor(caller.principal if caller else "", role, self.method, self.source, self.request_id)


_current: ContextVar[Call] = ContextVar("trellis_call")


def begin(method: str, metadata: dict[str, str], peer: str = "") -> Call:
    """The call that this task answers from now on; its id is the caller's own, if it is a sound one and no secret."""
    sent = metadata.get(REQUEST_ID, "")
    is_sound = _SOUND.fullmatch(sent) is not None and blanked(sent) == sent
    call = Call(method, sent if is_sound else secrets.token_hex(8), source=address_of(peer))
    _current.set(call)
    return call


def current() -> Call:
    """The call that is being answered."""
    return _current.get()


def current_caller() -> Caller:
    """Who makes it."""
    caller = current().caller
    assert caller is not None, "the interceptor lets nobody in whom it does not know"
    return caller


def metadata_of(context: grpc.aio.ServicerContext) -> dict[str, str]:  # type: ignore[type-arg]
    """The call's metadata that is text."""
    pairs = context.invocation_metadata() or ()
    return {str(key): value for key, value in pairs if isinstance(value, str)}
