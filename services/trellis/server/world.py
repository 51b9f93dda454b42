"""Time, randomness and the object store, as the ports want them."""

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter, Histogram

from trellis.objects import ObjectNotFoundError, ObjectStore

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_ID_CHARACTERS = 12
_SECONDS = Histogram(
    "trellis_objects_seconds",
    "How long calls of the object store took that loops made.",
    ["operation"],
    buckets=(0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
)
_ERRORS = Counter("trellis_objects_errors_total", "Calls of the object store, by loops, that failed.", ["operation"])


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC)


class RandomIds:
    """Ids of 60 random bits, secrets of 256."""

    def new_id(self, prefix: str) -> str:
        """Such as `job-k3v9m2p8q7ax`, without letters and digits that look alike."""
        return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARACTERS))

    def new_secret(self, prefix: str) -> str:
        """Such as `trk_…`."""
        return f"{prefix}_{secrets.token_urlsafe(32)}"


class ThreadedObjects:
    """The object store's blocking methods, each in a thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.url = store.url

    async def run(self, method: str, *args: Any) -> Any:
        """Call the store's method in a thread."""
        with _SECONDS.labels(method).time():
            try:
                return await asyncio.to_thread(getattr(self._store, method), *args)
            except ObjectNotFoundError:
                raise  # an answer like others
            except Exception:
                _ERRORS.labels(method).inc()
                raise
