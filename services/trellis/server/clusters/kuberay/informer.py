"""A copy of some objects that is kept up to date by watching; what it says is fit for hints."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from trellis.errors import Unavailable
from trellis.server.clusters.kuberay.api import Change, KubeApi, Sleep
from trellis.server.clusters.kuberay.refusals import Gone, Unreachable
from trellis.server.clusters.kuberay.resources import Object, Resource, is_going, name_of, uid_of, version_of

_log = structlog.get_logger(__name__)
_RELIST_SECONDS: Final = 120.0
"""An event that was lost is made good after so long."""
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 15.0


class Informer:
    """Lists the objects, then watches on from there; lists again from time to time, and when a watch can't be resumed.

    Events are taken in the order of their versions, so that one that comes twice changes nothing.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        selector: str = "",
        *,
        hear: Callable[[Object], None] = lambda _: None,
        relist_seconds: float = _RELIST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._api = api
        self._resource = resource
        self._selector = selector
        self._hear = hear
        """Called with each object as it is found, changed, and as it was last when it is deleted."""
        self._relist_seconds = relist_seconds
        self._clock = clock
        self._sleep = sleep
        self._objects: dict[str, Object] = {}
        self._deleted: set[str] = set()
        self._version = ""
        self._task: asyncio.Task[None] | None = None
        self._ends = False
        self._open = asyncio.Event()
        self._pause = _FIRST_PAUSE_SECONDS

    @property
    def is_fresh(self) -> bool:
        """Whether all is known and a watch is open; if not, ask Kubernetes itself."""
        return self._open.is_set()

    def start(self) -> None:
        """Begins, unless it has."""
        if self._task is None or self._task.done():
            self._ends = False
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends it."""
        task, self._task = self._task, None
        self._ends = True
        self._open.clear()
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def until_fresh(self) -> None:
        """Waits until `is_fresh`."""
        await self._open.wait()

    def get(self, name: str) -> Object | None:
        """The object, if there is one."""
        return self._objects.get(name)

    def items(self) -> list[Object]:
        """All of them."""
        return list(self._objects.values())

    def observe(self, one: Object) -> None:
        """Take in what a write of one's own gave back, ahead of the watch."""
        self._store(one)

    def deleted(self, one: Object) -> None:
        """Take in that one's own deletion went through."""
        self._deleted.add(uid_of(one))
        self._drop(one)

    async def _run(self) -> None:
        while not self._ends:
            try:
                listing = await self._api.list(self._resource, self._selector)
                self._objects = {name_of(one): one for one in listing.items if uid_of(one) not in self._deleted}
                self._deleted &= {uid_of(one) for one in listing.items}
                for one in listing.items:
                    self._hear(one)
                self._version = listing.resource_version
                await self._follow(self._clock() + self._relist_seconds)
            except Unavailable as error:
                await self._stumble(error)
            except Exception as error:  # noqa: BLE001  the edge of a loop, which must go on
                _log.exception("watch_failed", resource=self._resource.plural)
                await self._stumble(error)

    async def _follow(self, until: float) -> None:
        while not self._ends and (left := until - self._clock()) > 0:
            began = self._clock()
            try:
                async for change in self._api.watch(self._resource, self._version, left, self._selector):
                    self._take(change)
            except Gone:
                return  # without a pause: to list is the answer
            except Unavailable as error:
                if self._open.is_set() and self._clock() - began > _LONGEST_PAUSE_SECONDS:
                    self._pause = _FIRST_PAUSE_SECONDS  # it went well for long, though there was nothing to tell
                await self._stumble(error)
            else:
                # An end is no fault. One at once is: a server that ends every watch must not be asked without a pause.
                if self._clock() - began < 1.0:
                    await self._stumble(None)

    async def _stumble(self, error: Exception | None) -> None:
        self._open.clear()
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        asked = 0.0
        if isinstance(error, Unavailable) and not isinstance(error, Unreachable):
            asked = error.retry_after or 0.0
        if error is not None:
            _log.warning("watch_interrupted", resource=self._resource.plural, why=str(error), pause=pause)
        await self._sleep(max(pause, asked))

    def _take(self, change: Change) -> None:
        if change.kind == "OPENED":
            self._open.set()
            return
        version = version_of(change.object)
        if not _is_newer(version, self._version):
            return  # it came twice
        self._version = version
        self._pause = _FIRST_PAUSE_SECONDS
        if change.kind == "DELETED":
            self._drop(change.object)
        elif change.kind in {"ADDED", "MODIFIED"}:
            self._store(change.object)
        if change.kind in {"ADDED", "MODIFIED", "DELETED"}:
            self._hear(change.object)

    def _store(self, one: Object) -> None:
        present = self._objects.get(name_of(one))
        if uid_of(one) in self._deleted and not is_going(one):
            return
        if present is None or uid_of(present) != uid_of(one) or _is_newer(version_of(one), version_of(present)):
            self._objects[name_of(one)] = one

    def _drop(self, one: Object) -> None:
        present = self._objects.get(name_of(one))
        if present is not None and uid_of(present) == uid_of(one):
            del self._objects[name_of(one)]


def _is_newer(version: str, than: str) -> bool:
    # Kubernetes promises since 1.35 that versions of one kind can be compared as numbers.
    return int(version) > int(than) if version.isdecimal() and than.isdecimal() else version != than
