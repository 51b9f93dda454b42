"""Imports of adapters: files come in, pass the gate, and become an adapter, or nothing."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from trellis.artifacts import (
    ADAPTER_FILES,
    MANIFEST_FILE,
    AdapterFacts,
    ArtifactError,
    Manifest,
    check_adapter_folder,
    file_facts,
)
from trellis.errors import InvalidArgument, Reason, TrellisError, Unavailable, error_for
from trellis.names import AdapterName, BaseModelName, TenantName
from trellis.objects import ObjectStore
from trellis.server.app import keys
from trellis.server.app.adapters import discard_files
from trellis.server.app.audit import record
from trellis.server.app.base_models import chosen_base_model, read_facts
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.parts import MAX_CHUNK_BYTES
from trellis.server.app.quota import limited_tenant, require_artifact
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.adapter import Adapter
from trellis.server.domain.base_model import BaseModel

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True, slots=True)
class ImportHeader:
    """What is to come."""

    parent: str
    base_model: str
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """The beginning of a file."""

    filename: str
    size_bytes: int
    sha256: str


async def import_adapter(context: Context, header: ImportHeader, parts: AsyncIterator[ImportedFile | bytes]) -> Adapter:
    """Take an adapter's files, check them like those of a trained one, and keep them."""
    tenant, base = await _begin(context, header)
    facts = await read_facts(base)
    with tempfile.TemporaryDirectory(prefix="trellis-import-") as name:
        folder = Path(name)
        await _Receiver(folder, context.settings.max_adapter_bytes).receive_all(parts)
        try:
            adapter_facts = await asyncio.to_thread(check_adapter_folder, folder, facts)
        except ArtifactError as error:
            raise _invalid(str(error), error.code) from error
        manifest = await asyncio.to_thread(_manifest, folder, base)
        return await _keep(context, tenant, header, folder, manifest, adapter_facts)


async def _begin(context: Context, header: ImportHeader) -> tuple[str, BaseModel]:
    violations = Violations()
    tenant = violations.name(TenantName, header.parent, "header.parent")
    violations.name(BaseModelName, header.base_model, "header.base_model")
    violations.text(header.display_name, "header.display_name")
    violations.raise_any()
    assert tenant is not None
    async with context.units(write=False) as unit:
        await present_tenant(unit, tenant.tenant)
        return tenant.tenant, await chosen_base_model(unit, header.base_model, "header.base_model")


class _Receiver:
    """Writes the files of a stream into a folder, each checked to be the one that was announced."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._left = limit
        self._limit = limit
        self._file: ImportedFile | None = None
        self._received = 0
        self._digest = hashlib.sha256()

    async def receive_all(self, parts: AsyncIterator[ImportedFile | bytes]) -> None:
        async for part in parts:
            if isinstance(part, ImportedFile):
                self._finish()
                self._begin(part)
            else:
                await self._write(part)
        self._finish()
        missing = [name for name in ADAPTER_FILES if not (self._folder / name).exists()]
        if missing:
            raise _invalid(f"{' and '.join(missing)} did not come.", "missing_file")

    def _begin(self, file: ImportedFile) -> None:
        if file.filename.lower().endswith(_PICKLED):
            raise _invalid("Pickle files are never read, as they can run code; save it as safetensors.", "pickle")
        if file.filename not in ADAPTER_FILES:
            message = f"{file.filename[:100]!r} is not taken; an adapter is {' and '.join(ADAPTER_FILES)}."
            raise InvalidArgument.for_field("file.filename", message)
        violations = Violations()
        violations.sha256(file.sha256, "file.sha256")
        if file.size_bytes < 1:
            violations.add("file.size_bytes", "The file is empty.")
        if (self._folder / file.filename).exists():
            violations.add("file.filename", f"{file.filename} came twice.")
        violations.raise_any()
        if file.size_bytes > self._left:
            raise _too_large(f"The adapter is larger than {self._limit:,} bytes.", self._limit)
        self._left -= file.size_bytes
        self._file, self._received, self._digest = file, 0, hashlib.sha256()
        (self._folder / file.filename).touch()

    async def _write(self, chunk: bytes) -> None:
        file = self._file
        if file is None:
            raise InvalidArgument.for_field("chunk", "A file's header must come before its chunks.")
        if len(chunk) > MAX_CHUNK_BYTES:
            raise InvalidArgument.for_field("chunk", f"A chunk has at most {MAX_CHUNK_BYTES:,} bytes.")
        self._received += len(chunk)
        if self._received > file.size_bytes:
            message = f"More than the announced {file.size_bytes:,} bytes of {file.filename} came."
            raise _too_large(message, file.size_bytes)
        self._digest.update(chunk)
        await asyncio.to_thread(_append, self._folder / file.filename, chunk)

    def _finish(self) -> None:
        file = self._file
        if file is None:
            return
        sizes = {"committed_bytes": "0", "size_bytes": str(file.size_bytes)}
        if self._received < file.size_bytes:
            message = f"{file.filename} ended after {self._received:,} of {file.size_bytes:,} bytes; import again."
            raise error_for(Reason.UPLOAD_INCOMPLETE, message, metadata=sizes)
        received = self._digest.hexdigest()
        if received != file.sha256:
            message = f"{file.filename} has the sha256 {received}, not {file.sha256} as announced. Nothing was kept."
            digests = {"expected_sha256": file.sha256, "received_sha256": received}
            raise error_for(Reason.CHECKSUM_MISMATCH, message, metadata=digests)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


def _manifest(folder: Path, base: BaseModel) -> Manifest:
    return Manifest(
        base_model=base.name,
        base_revision=base.revision,
        tokenizer_digest=base.tokenizer_digest,
        files={name: file_facts(folder / name) for name in ADAPTER_FILES},
    )


async def _keep(
    context: Context, tenant: str, header: ImportHeader, folder: Path, manifest: Manifest, facts: AdapterFacts
) -> Adapter:
    async with context.units(write=False) as unit:
        found = await unit.adapters.get(tenant, AdapterName.for_digest(tenant, manifest.digest).adapter)
    if found is not None:
        return found
    import_id = context.ids.new_id("adapter")
    adapter = Adapter(
        tenant=tenant,
        digest=manifest.digest,
        display_name=header.display_name,
        base_model=manifest.base_model,
        tuning_job="",
        rank=facts.rank,
        target_modules=facts.target_modules,
        size_bytes=manifest.size_bytes,
        key=keys.import_prefix(tenant, import_id),
        manifest_json=manifest.to_json().decode(),
        create_time=context.now(),
    )
    recording = False
    try:
        await asyncio.to_thread(_store, context.store, folder, adapter, manifest)
        recording = True
        recorded = await _record(context, adapter)
    except BaseException as error:
        if recording and isinstance(error, Unavailable | asyncio.CancelledError):
            raise  # whether it was recorded is not known, and its files may be needed; else the sweep takes them
        await asyncio.shield(discard_files(context, tenant, import_id))
        raise
    if recorded.key != adapter.key:
        await discard_files(context, tenant, import_id)
    return recorded


def _store(store: ObjectStore, folder: Path, adapter: Adapter, manifest: Manifest) -> None:
    for name in ADAPTER_FILES:
        store.put_file(f"{adapter.key}/{name}", folder / name)
    store.put_bytes(f"{adapter.key}/{MANIFEST_FILE}", manifest.to_json())


async def _record(context: Context, adapter: Adapter) -> Adapter:
    async with context.units() as unit:
        tenant = await limited_tenant(unit, adapter.tenant, "artifact_bytes")
        # The base may have been taken out of the register meanwhile.
        await chosen_base_model(unit, adapter.base_model, "header.base_model")
        found = await unit.adapters.get(adapter.tenant, adapter.adapter_id)
        if found is None:
            await require_artifact(unit, tenant, adapter.size_bytes)
        if not await unit.adapters.add(adapter):
            found = found or await unit.adapters.get(adapter.tenant, adapter.adapter_id)
            assert found is not None, "an adapter that can't be added is there"
            return found
        await record(context, unit, None, adapter)
        await unit.commit()
    return adapter


def _invalid(message: str, code: str) -> TrellisError:
    return error_for(Reason.ADAPTER_INVALID, message, metadata={"code": code})


def _too_large(message: str, limit: int) -> TrellisError:
    return error_for(Reason.FILE_TOO_LARGE, message, metadata={"limit_bytes": str(limit)})
