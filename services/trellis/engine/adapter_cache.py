"""The adapters that are loaded, and who needs them."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from trellis.engine.adapters import LoadedAdapter
from trellis.errors import Reason, ResourceExhausted

_RETRY_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Slot:
    """A place of the cache: who loads holds the lock, `pins` counts the requests that need it."""

    lock: threading.Lock
    adapter: LoadedAdapter | None = None
    pins: int = 0


class AdapterCache:
    """The adapters that are loaded: the least recently used goes first, one that is in use never. Thread-safe."""

    def __init__(
        self,
        capacity: int,
        load: Callable[[str, str], LoadedAdapter],
        on_load: Callable[[], None] = lambda: None,
        on_evict: Callable[[], None] = lambda: None,
    ) -> None:
        self._capacity = capacity
        self._load = load
        self._on_load = on_load
        self._on_evict = on_evict
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    def acquire(self, digest: str, key: str) -> LoadedAdapter:
        """The adapter, loaded if need be, which blocks; `release` it once for each time.

        Raises what the load raises, and ResourceExhausted (ENGINE_BUSY) when every place is in use.
        """
        slot = self._pin(digest)
        try:
            with slot.lock:
                if slot.adapter is None:
                    slot.adapter = self._load(digest, key)
                    self._on_load()
                return slot.adapter
        except BaseException:
            self.release(digest)
            raise

    def release(self, digest: str) -> None:
        """Say that a request no longer needs the adapter."""
        with self._lock:
            slot = self._slots[digest]
            slot.pins -= 1
            if slot.pins == 0 and slot.adapter is None:
                del self._slots[digest]  # its load failed

    @contextlib.contextmanager
    def using(self, digest: str, key: str) -> Iterator[LoadedAdapter]:
        """Acquire for the length of a block."""
        adapter = self.acquire(digest, key)
        try:
            yield adapter
        finally:
            self.release(digest)

    def loaded(self) -> list[str]:
        """The digests of the adapters that are loaded, the least recently used first."""
        with self._lock:
            return [digest for digest, slot in self._slots.items() if slot.adapter is not None]

    def pinned(self) -> int:
        """How many requests hold an adapter."""
        with self._lock:
            return sum(slot.pins for slot in self._slots.values())

    def _pin(self, digest: str) -> _Slot:
        with self._lock:
            slot = self._slots.get(digest)
            if slot is None:
                self._make_room()
                slot = self._slots[digest] = _Slot(threading.Lock())
            self._slots.move_to_end(digest)
            slot.pins += 1
            return slot

    def _make_room(self) -> None:
        if len(self._slots) < self._capacity:
            return
        unused = next((digest for digest, slot in self._slots.items() if slot.pins == 0), None)
        if unused is None:
            message = f"All {self._capacity} adapters that fit the engine are in use; try again shortly."
            raise ResourceExhausted(Reason.ENGINE_BUSY, message, retry_after=_RETRY_SECONDS)
        del self._slots[unused]
        self._on_evict()
