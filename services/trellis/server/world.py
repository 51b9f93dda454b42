"""Time, randomness and the object store, as the ports want them."""

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Any

from trellis.objects import ObjectStore

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_ID_CHARACTERS = 12


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
        return await asyncio.to_thread(getattr(self._store, method), *args)
