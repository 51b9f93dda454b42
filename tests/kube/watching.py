"""A watch as the API tells it: what happened since a version, then what happens."""

import asyncio
import json
import time

from aiohttp import web

from tests.kube.faults import Faults
from tests.kube.queries import field_test, label_test
from tests.kube.statuses import expired
from tests.kube.store import Happening, Store
from trellis.server.clusters.kuberay.resources import Object, Resource


class Telling:
    """Writes the events that one watch asks for."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, kind: Resource, store: Store, faults: Faults
    ) -> None:
        query = request.query
        self._response = response
        self._kind = kind
        self._namespace = request.match_info["namespace"]
        self._store = store
        self._faults = faults
        self._labels = label_test(query.get("labelSelector", ""))
        self._fields = field_test(query.get("fieldSelector", ""))
        self._bookmarks = query.get("allowWatchBookmarks") == "true"
        self._end = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
        self._seen = int(query.get("resourceVersion") or "0")
        self._before: Happening | None = None

    async def run(self, bookmark_seconds: float) -> None:
        """Until the watch's time is over, or what it wants next is forgotten."""
        if self._seen == 0:
            await self._tell_all()
        while self._seen >= self._store.floor:
            for one in [one for one in self._store.history if one.version > self._seen]:
                self._seen = one.version
                await self._tell(one)
            left = self._end - time.monotonic()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(min(left, bookmark_seconds)):
                    await self._store.changed()
            except TimeoutError:
                await self._bookmark()
        await self._write("ERROR", expired(f"too old resource version: {self._seen} ({self._store.version})").body)

    async def _tell_all(self) -> None:
        self._seen = self._store.version
        for one in self._store.list(self._kind, self._namespace):
            if self._labels(one) and self._fields(one):
                await self._write("ADDED", one)

    async def _tell(self, one: Happening) -> None:
        if one.resource != self._kind or one.namespace != self._namespace:
            return
        if not self._labels(one.object) or not self._fields(one.object):
            return
        if self._faults.events_to_lose:
            self._faults.events_to_lose -= 1
            return
        await self._write(one.kind, one.object)
        if self._faults.events_come_twice:
            # As after a connection that was taken up too early: with what was before, and so out of turn.
            for again in (self._before or one, one):
                await self._write(again.kind, again.object)
            self._before = one

    async def _bookmark(self) -> None:
        if self._bookmarks and time.monotonic() < self._end:
            metadata = {"resourceVersion": str(self._seen)}
            empty = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": metadata}
            await self._write("BOOKMARK", empty)

    async def _write(self, event: str, one: Object) -> None:
        await self._response.write(json.dumps({"type": event, "object": one}).encode() + b"\n")
