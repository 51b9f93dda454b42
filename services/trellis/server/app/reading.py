"""Objects as streams of pieces."""

import asyncio
from collections.abc import AsyncIterator

from trellis.objects import ObjectStore

PIECE_BYTES = 1 << 20


async def read_pieces(store: ObjectStore, key: str, offset: int = 0) -> AsyncIterator[bytes]:
    """The object's bytes from `offset` on, at most 1 MiB at a time."""
    stream = await asyncio.to_thread(store.open_read, key)
    try:
        await asyncio.to_thread(stream.seek, offset)
        while piece := await asyncio.to_thread(stream.read, PIECE_BYTES):
            yield piece
    finally:
        await asyncio.to_thread(stream.close)
