"""Creates that were answered, so that one that is repeated changes nothing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

KEPT: Final = timedelta(days=7)
"""So long a create may be repeated with its request_id; the API's comments say so."""


@dataclass(frozen=True, slots=True)
class RememberedRequest:
    """A create that was answered: the same request_id gives the same resource again."""

    scope: str
    """The method and parent, such as `CreateTuningJob tenants/acme`."""
    request_id: str
    fingerprint: str
    """sha256 of the request, in hex: another request under the same id is an error."""
    resource: str
    create_time: datetime
