"""Tickets: what a process was started with, changed for its token, once."""

from typing import Final

from trellis.errors import InvalidArgument, Reason, error_for
from trellis.server.app.authentication import secret_hash
from trellis.server.domain.caller import Caller

_NONCE: Final = range(32, 101)


def check_nonce(caller: Caller, nonce: str) -> None:
    """Raise InvalidArgument unless the nonce can be one, which a caller with a ticket must send."""
    if caller.by_ticket and len(nonce) not in _NONCE:
        message = f"It must have {_NONCE[0]} to {_NONCE[-1]} random characters, not {len(nonce)}."
        raise InvalidArgument.for_field("nonce", message)


def check_unused(token: str, token_hash: str) -> None:
    """Raise Unauthenticated unless the process that the ticket was first used by, which gets this token, uses it again."""
    if secret_hash(token) != token_hash:
        message = "Another process has used this ticket, which is good for one. Stop."
        raise error_for(Reason.API_KEY_INVALID, message)
