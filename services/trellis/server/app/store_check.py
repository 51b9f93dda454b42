"""Whether every object that the database names is in the store, with its size and, if asked, its digest."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from trellis.artifacts import MANIFEST_FILE, Manifest
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.server.app.checkpoints import COMMIT_FILE
from trellis.server.app.ports import Page, UnitOfWork, UnitOfWorkFactory
from trellis.server.domain.dataset import DatasetVersion, ReportState
from trellis.server.domain.export import ExportState
from trellis.server.domain.tuning_job import Checkpoint

T = TypeVar("T")
_PAGE = 200
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class NamedObject:
    """An object that a resource is nothing without."""

    resource: str
    key: str
    size: int | None = None
    """In bytes; None if the database does not say it."""
    sha256: str = ""
    is_checkpoint: bool = False
    """Whether `key` is a folder with as many bytes in all its objects together, but for the marker of its end."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one, as a sentence without its name."""

    named: NamedObject
    why: str


async def check_store(units: UnitOfWorkFactory, store: ObjectStore, *, digests: bool) -> AsyncIterator[Fault | None]:
    """One for each object that is named: its fault, or None; `digests` reads all of them. Nothing is changed.

    What was deleted since it was looked up is a fault too: look while nobody deletes, or look again.
    """
    async for named in named_objects(units):
        why = await asyncio.to_thread(_fault, store, named, digests)
        yield Fault(named, why) if why else None


async def named_objects(units: UnitOfWorkFactory) -> AsyncIterator[NamedObject]:
    """All that the database names, tenant by tenant."""
    bases = [base.name async for base in _all(units, lambda unit, cursor: unit.base_models.list(_PAGE, cursor))]
    async for tenant in _all(units, lambda unit, cursor: unit.tenants.list(_PAGE, cursor)):
        for find in (_adapters, _exports, _checkpoints):
            async for named in find(units, tenant.tenant_id):
                yield named
        async for named in _data(units, tenant.tenant_id, bases):
            yield named


async def _data(units: UnitOfWorkFactory, tenant: str, bases: list[str]) -> AsyncIterator[NamedObject]:
    async for dataset in _all(units, lambda unit, cursor: unit.datasets.list(tenant, _PAGE, cursor)):
        of = dataset.dataset_id
        async for version in _all(units, partial(_versions, tenant, of)):
            yield NamedObject(version.name, version.key, version.size_bytes, version.sha256)
            for base in bases:
                async with units(write=False) as unit:
                    report = await unit.datasets.get_report(tenant, of, version.sha256, base)
                if report is not None and report.state is ReportState.DONE:
                    yield NamedObject(f"{version.name}'s report for {base}", report.key)


async def _adapters(units: UnitOfWorkFactory, tenant: str) -> AsyncIterator[NamedObject]:
    async for adapter in _all(units, lambda unit, cursor: unit.adapters.list(tenant, _PAGE, cursor)):
        yield NamedObject(adapter.name, f"{adapter.key}/{MANIFEST_FILE}", sha256=adapter.digest)
        for file, facts in Manifest.from_json(adapter.manifest_json).files.items():
            yield NamedObject(adapter.name, f"{adapter.key}/{file}", facts.size, facts.sha256)


async def _exports(units: UnitOfWorkFactory, tenant: str) -> AsyncIterator[NamedObject]:
    async for export in _all(units, lambda unit, cursor: unit.exports.list(tenant, _PAGE, cursor)):
        for file in export.files if export.state is ExportState.SUCCEEDED else ():
            yield NamedObject(export.name, f"{export.key}/{file.path}", file.size_bytes, file.sha256)


async def _checkpoints(units: UnitOfWorkFactory, tenant: str) -> AsyncIterator[NamedObject]:
    async for job in _all(units, lambda unit, cursor: unit.jobs.list(tenant, (), _PAGE, cursor)):
        async for checkpoint in _all(units, partial(_kept, job.uid)):
            named = f"{job.name}'s checkpoint of step {checkpoint.step}"
            yield NamedObject(named, checkpoint.key, checkpoint.size_bytes, is_checkpoint=True)


def _versions(tenant: str, dataset: str, unit: UnitOfWork, cursor: str | None) -> Awaitable[Page[DatasetVersion]]:
    return unit.datasets.list_versions(tenant, dataset, _PAGE, cursor)


def _kept(uid: str, unit: UnitOfWork, cursor: str | None) -> Awaitable[Page[Checkpoint]]:
    return unit.jobs.checkpoints(uid, _PAGE, cursor)


async def _all(
    units: UnitOfWorkFactory, page_of: Callable[[UnitOfWork, str | None], Awaitable[Page[T]]]
) -> AsyncIterator[T]:
    """Page by page, so that no transaction is long."""
    cursor: str | None = None
    while True:
        async with units(write=False) as unit:
            page = await page_of(unit, cursor)
        for item in page.items:
            yield item
        if (cursor := page.next_cursor) is None:
            return


def _fault(store: ObjectStore, named: NamedObject, digests: bool) -> str:
    if named.is_checkpoint:
        return _fault_of_checkpoint(store, named, digests)
    try:
        size = store.size(named.key)
        if named.size not in {None, size}:
            return _of_size(size, named.size)
        if digests and named.sha256 and _sha256(store, named.key) != named.sha256:
            return "has other bytes than those of its sha256"
    except ObjectNotFoundError:
        return "is missing"
    return ""


def _fault_of_checkpoint(store: ObjectStore, named: NamedObject, digests: bool) -> str:
    within = f"{named.key}/"
    sizes = {found.key.removeprefix(within): found.size for found in store.list(named.key)}
    if not sizes:
        return "is missing"
    if sizes.pop(COMMIT_FILE, None) is None:
        return f"has no {COMMIT_FILE}"
    if (size := sum(sizes.values())) != named.size:
        return _of_size(size, named.size)
    if digests:
        try:
            files = json.loads(store.read_bytes(within + COMMIT_FILE))["files"].items()
            wrong = [
                name for name, facts in files if name not in sizes or _sha256(store, within + name) != facts["sha256"]
            ]
        except (ValueError, LookupError, TypeError, AttributeError):
            return f"has a {COMMIT_FILE} that can't be read"
        if wrong:
            return f"has other bytes than those of its sha256: {', '.join(wrong)}"
    return ""


def _of_size(size: int, wanted: int | None) -> str:
    return "is missing" if size == 0 and wanted else f"has {size} bytes instead of {wanted}"


def _sha256(store: ObjectStore, key: str) -> str:
    digest = hashlib.sha256()
    with store.open_read(key) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
