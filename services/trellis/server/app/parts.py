"""The parts of an upload: what comes is stored every few MiB, so that a cut upload goes on where it stopped."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from trellis.errors import InvalidArgument, Reason, TrellisError, error_for
from trellis.server.app import keys
from trellis.server.app.context import Context
from trellis.server.domain.dataset import Upload, UploadPart

MAX_CHUNK_BYTES = 1 << 20


class PartWriter:
    """Stores a stream's chunks as parts, in the object store first and then as a row."""

    def __init__(self, context: Context, upload: Upload) -> None:
        self._context = context
        self._upload = upload
        self._buffer = bytearray()

    async def write_all(self, chunks: AsyncIterator[bytes]) -> Upload:
        """Store all that comes, and return the upload with its parts; when the stream is cut, what came is kept."""
        try:
            async for chunk in chunks:
                self._take(chunk)
                if len(self._buffer) >= self._context.settings.upload_part_bytes:
                    await asyncio.shield(self._store())
        except TrellisError:
            self._buffer.clear()
            raise
        finally:
            # Shielded: a call that is cancelled shows as the end of its stream first, and as a cancellation here.
            await asyncio.shield(self._store())
        return self._upload

    def _take(self, chunk: bytes) -> None:
        if len(chunk) > MAX_CHUNK_BYTES:
            raise InvalidArgument.for_field("chunk", f"A chunk has at most {MAX_CHUNK_BYTES:,} bytes.")
        self._buffer += chunk
        limit = self._upload.size_bytes
        if self._upload.committed_bytes + len(self._buffer) > limit:
            message = f"More than the announced {limit:,} bytes came."
            raise error_for(Reason.FILE_TOO_LARGE, message, metadata={"limit_bytes": str(limit)})

    async def _store(self) -> None:
        if not self._buffer:
            return
        data, self._buffer = bytes(self._buffer), bytearray()
        upload, context = self._upload, self._context
        offset = upload.committed_bytes
        part_id = context.ids.new_id("part")
        key = keys.part_key(upload.tenant, upload.dataset_id, upload.sha256, offset, part_id)
        await asyncio.to_thread(context.store.put_bytes, key, data)
        part = UploadPart(offset, len(data), key)
        async with context.units() as unit:
            added = await unit.datasets.add_part(upload, part, context.now())
            if added:
                await unit.commit()
        if not added:
            await asyncio.to_thread(context.store.delete, key)
            raise await self._overtaken()
        self._upload = replace(upload, parts=(*upload.parts, part))

    async def _overtaken(self) -> TrellisError:
        upload = self._upload
        async with self._context.units(write=False) as unit:
            present = await unit.datasets.get_upload(upload.tenant, upload.dataset_id, upload.sha256)
        return offset_mismatch(present or replace(upload, parts=()))


def offset_mismatch(upload: Upload) -> TrellisError:
    """The error of a stream that does not begin where the stored bytes end."""
    message = f"{upload.committed_bytes:,} bytes are stored; send from there on."
    return error_for(Reason.UPLOAD_OFFSET_MISMATCH, message, metadata={"committed_bytes": str(upload.committed_bytes)})


def incomplete(upload: Upload) -> TrellisError:
    """The error of a stream that ended too early."""
    message = f"The stream ended after {upload.committed_bytes:,} of {upload.size_bytes:,} bytes; send the rest."
    sizes = {"committed_bytes": str(upload.committed_bytes), "size_bytes": str(upload.size_bytes)}
    return error_for(Reason.UPLOAD_INCOMPLETE, message, metadata=sizes)
