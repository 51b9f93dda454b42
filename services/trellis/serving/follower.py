"""Follows the list of adapters that the server wants to be at hand."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from trellis.engine import AdapterRef
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.wanted_adapters import WantedAdapters, WantedError

_log = logging.getLogger(__name__)
_TICK_SECONDS: Final = 0.5
_READ_TICKS: Final = 4


class WantedFollower:
    """Reads the list again and again in a thread of its own, and tells the engine, which does a little each time.

    As long as the list can't be read, what it said last is so; a replica that starts and finds none loads adapters
    when they are called.
    """

    def __init__(self, store: ObjectStore, key: str, want: Callable[[Sequence[AdapterRef]], None]) -> None:
        self._store = store
        self._key = key
        self._want = want
        self._adapters: tuple[AdapterRef, ...] = ()
        self._data = b""
        self._complaint = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wanted-adapters", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, without waiting for what it reads."""
        self._stopping.set()

    def read(self) -> None:
        """Read the list, if there is one."""
        try:
            data = self._store.read_bytes(self._key)
            if data != self._data:
                wanted = WantedAdapters.from_json(data)
                self._adapters = tuple(AdapterRef(each.digest, each.key) for each in wanted.adapters)
                self._data = data
            self._complaint = ""
        except ObjectNotFoundError:
            pass
        except (WantedError, OSError) as error:
            self._complain(f"The list of wanted adapters can't be read: {error}")

    def _run(self) -> None:
        tick = 0
        while True:
            if tick % _READ_TICKS == 0:
                try:
                    self.read()
                except Exception:  # noqa: BLE001  a thread's edge
                    _log.exception("The list of wanted adapters could not be read.")
            self._want(self._adapters)
            tick += 1
            if self._stopping.wait(_TICK_SECONDS):
                return

    def _complain(self, message: str) -> None:
        if message != self._complaint:  # not again every few seconds
            _log.warning(message)
        self._complaint = message
