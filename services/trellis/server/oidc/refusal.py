"""How a token is refused."""

from trellis.errors import Reason, TrellisError, error_for


def refused(message: str, check: str) -> TrellisError:
    """The error; the message and the check's name say nothing of what the token holds."""
    return error_for(Reason.TOKEN_INVALID, message, metadata={"check": check})
