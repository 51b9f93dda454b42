"""Adapters for an event loop: loaded in threads of their own, never on the loop's or the engine's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from trellis.engine import AdapterCache, LoadedAdapter

_LOAD_THREADS: Final = 2


class AdapterLeases:
    """Hands out adapters of a cache, each for the length of a block."""

    def __init__(self, cache: AdapterCache) -> None:
        self._cache = cache
        self._threads = ThreadPoolExecutor(_LOAD_THREADS, thread_name_prefix="adapter-load")

    @contextlib.asynccontextmanager
    async def using(self, digest: str, key: str) -> AsyncIterator[LoadedAdapter | None]:
        """The adapter, loaded if need be; None for an empty digest, the base alone. Raises what the cache raises."""
        if not digest:
            yield None
            return
        loading = self._threads.submit(self._cache.acquire, digest, key)
        try:
            adapter = await asyncio.shield(asyncio.wrap_future(loading))
        except asyncio.CancelledError:
            loading.add_done_callback(lambda done: self._let_go(digest, done))
            raise
        try:
            yield adapter
        finally:
            self._cache.release(digest)

    def _let_go(self, digest: str, loading: "Future[LoadedAdapter]") -> None:
        """Nobody waits for the adapter any more."""
        if not loading.cancelled() and loading.exception() is None:
            self._cache.release(digest)
