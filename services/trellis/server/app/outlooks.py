"""The queue as the scheduler would decide on it now, looked at once for all who ask within a moment."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from trellis.server.app.ports import Clock
from trellis.server.scheduler.explain import Explanation, explain
from trellis.server.scheduler.outlook import Outlook
from trellis.server.scheduler.snapshot import Snapshot

_FRESH: Final = timedelta(seconds=2)
"""So long a look is shown to others too."""


@dataclass(frozen=True, slots=True)
class QueueLook:
    """The queue at one moment."""

    snapshot: Snapshot
    names: Mapping[str, str]
    """Of the queued jobs, by uid."""


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation, with the names of the jobs that it tells of."""

    explanation: Explanation
    own_before: tuple[str, ...]


class Outlooks:
    """Explains queued jobs. One look at the queue serves all callers of two seconds, and one of them reckons at a time,
    in a thread, so that however many ask, other calls are answered."""

    def __init__(self, look: Callable[[], Awaitable[QueueLook]], clock: Clock) -> None:
        self._look = look
        self._clock = clock
        self._turn = asyncio.Lock()
        self._latest: QueueLook | None = None
        self._outlook: Outlook | None = None
        self._explained: dict[str, Explained] = {}

    async def explain(self, uid: str) -> Explained | None:
        """Explain a job; None for one that the scheduler does not see, as it has just left the queue or can't be trained."""
        async with self._turn:
            outlook = await self._fresh(uid)
            if uid not in outlook.jobs:
                return None
            if uid not in self._explained:
                self._explained[uid] = await asyncio.to_thread(self._explain, outlook, uid)
            return self._explained[uid]

    async def _fresh(self, uid: str) -> Outlook:
        """The newest outlook; a new one when it is old, or does not know a job that was submitted since."""
        outlook = self._outlook
        is_old = outlook is None or not timedelta(0) <= self._clock.now() - outlook.snapshot.now < _FRESH
        if outlook is None or is_old or uid not in outlook.jobs:
            self._latest = await self._look()
            outlook = self._outlook = await asyncio.to_thread(Outlook, self._latest.snapshot)
            self._explained = {}
        return outlook

    def _explain(self, outlook: Outlook, uid: str) -> Explained:
        assert self._latest is not None
        found, names = explain(outlook, uid), self._latest.names
        return Explained(found, tuple(names[own] for own in found.own_before if own in names))
