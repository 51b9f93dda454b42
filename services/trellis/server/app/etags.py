"""Etags: they change with every change of a resource, and differ between two that had the same name."""

import hashlib
from datetime import datetime

from trellis.errors import Reason, error_for


def etag_of(name: str, created: datetime, revision: int) -> str:
    """The etag of a resource in this revision."""
    return hashlib.sha256(f"{name} {created.isoformat()} {revision}".encode()).hexdigest()[:16]


def check_etag(sent: str, name: str, created: datetime, revision: int) -> None:
    """Raise Aborted (ETAG_MISMATCH) unless the etag is the present one, or none was sent."""
    if sent and sent != etag_of(name, created, revision):
        message = f"{name} has changed since it was read. Read it again, then retry with its present etag."
        raise error_for(Reason.ETAG_MISMATCH, message, metadata={"resource": name})
