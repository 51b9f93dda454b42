"""Many callers that wait for their rows to change, at the price of one look at the database for all of them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextvars import Context as Variables
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from trellis.server.app.ports import Clock

Mark = TypeVar("Mark")
_CHUNK = 500
"""So many rows are asked for at a time."""
Look = Callable[[Collection[str]], Awaitable[Mapping[str, Mark]]]
"""The marks of those rows that are there, by key."""


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Mark]):
    """One caller."""

    key: str
    is_news: Callable[[Mark | None], bool]
    until: datetime | None
    woken: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.woken.done():
            self.woken.set_exception(error)


class Lookout(Generic[Mark]):
    """Looks at the rows of all who wait, once in each pause, and wakes those whose row has news.

    It looks only while somebody waits. What goes wrong with a look, the server's end among it, is raised to all of them.
    """

    def __init__(self, look: Look[Mark], pause: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._look = look
        self._pause = pause
        self._clock = clock
        self._waiting: set[_Waiting[Mark]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def news(self, key: str, is_news: Callable[[Mark | None], bool], until: datetime | None = None) -> None:
        """Returns when the row's mark (None: there is no such row) is news, when it may be, or when the time is over.

        Never at once: a pause passes before the first look, for the caller has just looked itself.
        """
        waiting = _Waiting[Mark](key, is_news, until)
        self._waiting.add(waiting)
        if self._looking is None or self._looking.done():
            # Not in the caller's context: its request id belongs to no look.
            self._looking = asyncio.create_task(self._run(), name="lookout", context=Variables())
        try:
            await waiting.woken
        finally:
            self._waiting.discard(waiting)

    def ring(self, keys: Iterable[str]) -> None:
        """Wakes whoever waits for these rows: this process has just changed them."""
        keys = frozenset(keys)
        for waiting in [waiting for waiting in self._waiting if waiting.key in keys]:
            self._let_go(waiting)

    async def drain(self) -> None:
        """End the look that goes on, and wait until it has let go of the database; for when nobody waits any more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._pause()
                await self._wake_those_with_news()
        except Exception as error:  # noqa: BLE001 - raised to everybody who waits
            for waiting in list(self._waiting):
                self._waiting.discard(waiting)
                waiting.fail(error)

    async def _wake_those_with_news(self) -> None:
        keys = sorted({waiting.key for waiting in self._waiting})
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = await self._look(chunk)
            asked = frozenset(chunk)
            for waiting in [waiting for waiting in self._waiting if waiting.key in asked]:
                if waiting.is_news(marks.get(waiting.key)):
                    self._let_go(waiting)
        now = self._clock.now()
        for waiting in [waiting for waiting in self._waiting if waiting.until is not None and now >= waiting.until]:
            self._let_go(waiting)

    def _let_go(self, waiting: _Waiting[Mark]) -> None:
        self._waiting.discard(waiting)
        waiting.wake()
