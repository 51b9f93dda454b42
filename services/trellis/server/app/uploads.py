"""Uploads: a stream of bytes becomes a dataset version, whole and with the announced sha256, or nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from trellis.errors import AlreadyExists, InvalidArgument, NotFound, Reason, error_for
from trellis.formats import HEAD_BYTES, FileFormat, FormatError, detect_format
from trellis.names import DatasetName
from trellis.objects import ObjectNotFoundError, ObjectStoreUnavailableError
from trellis.server.app import keys
from trellis.server.app.audit import record, unchanged
from trellis.server.app.base_models import chosen_base_model
from trellis.server.app.composing import ChecksumError, compose
from trellis.server.app.context import Context
from trellis.server.app.datasets import new_dataset, present_dataset
from trellis.server.app.fields import Violations
from trellis.server.app.parts import PartWriter, incomplete, offset_mismatch
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota import limited_tenant, require_dataset
from trellis.server.app.reports import ensure_report
from trellis.server.domain.dataset import DatasetVersion, Upload, VersionState

_COMPRESSED = {FileFormat.JSONL: FileFormat.JSONL_GZ, FileFormat.CSV: FileFormat.CSV_GZ}
_GZIP = b"\x1f\x8b"
_MAX_FILENAME = 255


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What an upload announces; `file_format` is None where the server is to tell."""

    parent: str
    filename: str
    size_bytes: int
    sha256: str
    offset: int = 0
    file_format: FileFormat | None = None
    base_model: str = ""
    allow_missing: bool = False


@dataclass(frozen=True, slots=True)
class _Begun:
    upload: Upload
    base_model: str
    """The name of the one to count for."""
    made_dataset: bool
    """Whether there was no such dataset before this upload."""


@dataclass(frozen=True, slots=True)
class FoundUpload:
    """What is held of a file: an upload on its way, or the version that it became."""

    dataset: DatasetName
    sha256: str
    size_bytes: int
    committed_bytes: int
    version: DatasetVersion | None = None


async def get_upload(context: Context, parent: str, sha256: str) -> FoundUpload:
    """How much of a file is held; raises NotFound if nothing is."""
    violations = Violations()
    name = violations.name(DatasetName, parent, "parent")
    violations.sha256(sha256, "sha256")
    violations.raise_any()
    assert name is not None
    async with context.units(write=False) as unit:
        version = await unit.datasets.get_version(name.tenant, name.dataset, sha256)
        if version is not None:
            return FoundUpload(name, sha256, version.size_bytes, version.size_bytes, version)
        upload = await unit.datasets.get_upload(name.tenant, name.dataset, sha256)
    if upload is None:
        raise NotFound.for_resource(f"{parent}/uploads/{sha256}")
    return FoundUpload(name, sha256, upload.size_bytes, upload.committed_bytes)


async def upload_dataset_version(context: Context, new: NewVersion, chunks: AsyncIterator[bytes]) -> DatasetVersion:
    """Store the file and, when every byte is there and its sha256 is right, make it a version."""
    name = _checked(context, new)
    begun = await _begin(context, new, name)
    if isinstance(begun, DatasetVersion):
        return begun
    upload = begun.upload
    if upload.committed_bytes != new.offset:
        raise offset_mismatch(upload)
    try:
        upload = await PartWriter(context, upload).write_all(chunks)
        return await _finish(context, new, upload, begun.base_model)
    except (InvalidArgument, ChecksumError) as error:
        # What came can't become the file that was announced.
        await _drop(context, upload, with_dataset=begun.made_dataset)
        if isinstance(error, ChecksumError):
            raise _wrong_checksum(new, error.received) from None
        raise


def _checked(context: Context, new: NewVersion) -> DatasetName:
    violations = Violations()
    name = violations.name(DatasetName, new.parent, "header.parent")
    violations.sha256(new.sha256, "header.sha256")
    violations.text(new.filename, "header.filename", _MAX_FILENAME)
    if not new.filename or "/" in new.filename or "\\" in new.filename:
        violations.add("header.filename", "It must be the file's name, without folders.")
    if new.size_bytes < 1:
        violations.add("header.size_bytes", "The file is empty." if new.size_bytes == 0 else "It must not be negative.")
    if new.offset < 0:
        violations.add("header.offset", "It must not be negative.")
    violations.raise_any()
    limit = context.settings.max_upload_bytes
    if new.size_bytes > limit:
        message = f"The file has {new.size_bytes:,} bytes, but {limit:,} is the most."
        raise error_for(Reason.FILE_TOO_LARGE, message, metadata={"limit_bytes": str(limit)})
    assert name is not None
    return name


async def _begin(context: Context, new: NewVersion, name: DatasetName) -> DatasetVersion | _Begun:
    """The version if the file is there already; else the upload so far."""
    fresh = Upload(name.tenant, name.dataset, new.sha256, new.size_bytes, context.now())
    async with context.units() as unit:
        tenant = await limited_tenant(unit, name.tenant, "dataset_bytes")
        made_dataset = await _ensure_dataset(context, unit, new, name)
        base = await chosen_base_model(unit, new.base_model, "header.base_model")
        version = await unit.datasets.get_version(name.tenant, name.dataset, new.sha256)
        if version is not None:
            await ensure_report(context, unit, version, base.name if new.base_model else version.base_model)
            unchanged()
            await unit.commit()
            return version
        upload = await unit.datasets.get_upload(name.tenant, name.dataset, new.sha256)
        if upload is None or upload.size_bytes != new.size_bytes:
            # The same sha256 with another size: one of the two was wrong, and the newer word counts.
            await unit.datasets.delete_upload(name.tenant, name.dataset, new.sha256)
            await require_dataset(unit, tenant, new.size_bytes)
            await unit.datasets.start_upload(fresh)
            upload = fresh
        await unit.commit()
    return _Begun(upload, base.name, made_dataset)


async def _ensure_dataset(context: Context, unit: UnitOfWork, new: NewVersion, name: DatasetName) -> bool:
    """Whether the dataset had to be made."""
    if new.allow_missing and await unit.datasets.get(name.tenant, name.dataset) is None:
        with contextlib.suppress(AlreadyExists):  # another stream was faster
            made = new_dataset(context, name)
            await unit.datasets.add(made)
            await record(context, unit, None, made)
            return True
    await present_dataset(unit, name)
    return False


async def _finish(context: Context, new: NewVersion, upload: Upload, base_model: str) -> DatasetVersion:
    if upload.committed_bytes < upload.size_bytes:
        raise incomplete(upload)
    key = keys.version_key(upload.tenant, upload.dataset_id, upload.sha256)
    try:
        file_format = await asyncio.to_thread(_format_of, context, new, upload)
        await asyncio.to_thread(compose, context.store, [part.key for part in upload.parts], key, upload.sha256)
    except ObjectNotFoundError:
        # Another stream of the same file came first, and cleared its parts away.
        return await _made_by_another(context, upload)
    version = DatasetVersion(
        tenant=upload.tenant,
        dataset_id=upload.dataset_id,
        sha256=upload.sha256,
        state=VersionState.VALIDATING,
        filename=new.filename,
        file_format=file_format.value,
        size_bytes=upload.size_bytes,
        key=key,
        base_model=base_model,
        create_time=context.now(),
    )
    try:
        made = await _record(context, version)
    except NotFound:
        # The dataset was deleted meanwhile.
        await asyncio.to_thread(context.store.delete, key)
        await _delete_parts(context, upload)
        raise
    # Not after any other error: the upload may still be there, and goes on with its parts.
    with contextlib.suppress(ObjectStoreUnavailableError):  # the sweep takes what is left
        await _delete_parts(context, upload)
    return made


async def _made_by_another(context: Context, upload: Upload) -> DatasetVersion:
    name = upload.tenant, upload.dataset_id, upload.sha256
    async with context.units() as unit:
        version = await unit.datasets.get_version(*name)
        if version is not None:
            unchanged()
            return version
        present = await unit.datasets.get_upload(*name)
        if present is not None and present.parts == upload.parts:
            # Nobody made it, and a part is gone: nothing could ever be made of the others. Whoever sends it begins anew.
            await unit.datasets.delete_upload(*name)
            await unit.commit()
    raise incomplete(replace(upload, parts=()))


async def _record(context: Context, version: DatasetVersion) -> DatasetVersion:
    """The version with its report to be made, in one transaction; the one that is there if another stream was faster."""
    async with context.units() as unit:
        name = DatasetName(version.tenant, version.dataset_id)
        dataset = await present_dataset(unit, name, for_update=True)
        if not await unit.datasets.add_version(version):
            found = await unit.datasets.get_version(version.tenant, version.dataset_id, version.sha256)
            assert found is not None, "a version that can't be added is there"
            unchanged()
            return found
        await record(context, unit, None, version)
        await unit.datasets.save(
            replace(
                dataset,
                latest_sha256=version.sha256,
                update_time=version.create_time,
                revision=dataset.revision + 1,
            )
        )
        await ensure_report(context, unit, version, version.base_model)
        await unit.datasets.delete_upload(version.tenant, version.dataset_id, version.sha256)
        await unit.commit()
    return version


async def _drop(context: Context, upload: Upload, *, with_dataset: bool) -> None:
    async with context.units() as unit:
        await unit.datasets.delete_upload(upload.tenant, upload.dataset_id, upload.sha256)
        dataset = await unit.datasets.get(upload.tenant, upload.dataset_id, for_update=True)
        if with_dataset and dataset is not None and dataset.latest_sha256 is None:
            await unit.datasets.delete(upload.tenant, upload.dataset_id)
            await record(context, unit, dataset, None)
        await unit.commit()
    await _delete_parts(context, upload)


async def _delete_parts(context: Context, upload: Upload) -> None:
    prefix = keys.upload_prefix(upload.tenant, upload.dataset_id, upload.sha256)
    await asyncio.to_thread(context.store.delete_prefix, prefix)


def _format_of(context: Context, new: NewVersion, upload: Upload) -> FileFormat:
    with context.store.open_read(upload.parts[0].key) as stream:
        head = stream.read(HEAD_BYTES)
    if new.file_format is not None:
        return _COMPRESSED.get(new.file_format, new.file_format) if head.startswith(_GZIP) else new.file_format
    try:
        return detect_format(new.filename, head)
    except FormatError as error:
        raise InvalidArgument.for_field("header.format", str(error)) from error


def _wrong_checksum(new: NewVersion, received: str) -> Exception:
    message = f"The bytes have the sha256 {received}, not {new.sha256} as announced. Nothing was kept; upload again."
    return error_for(
        Reason.CHECKSUM_MISMATCH, message, metadata={"expected_sha256": new.sha256, "received_sha256": received}
    )
