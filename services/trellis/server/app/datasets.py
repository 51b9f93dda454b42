"""Datasets and their versions."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from trellis.errors import InvalidArgument, NotFound, Reason, error_for
from trellis.names import LATEST, DatasetName, DatasetVersionName, TenantName
from trellis.server.app import keys
from trellis.server.app.audit import record
from trellis.server.app.context import Context
from trellis.server.app.etags import check_etag
from trellis.server.app.fields import Violations
from trellis.server.app.idempotency import RequestKey, create_once
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.reading import read_pieces
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.dataset import Dataset, DatasetVersion


def dataset_name(dataset: Dataset) -> str:
    """The dataset's resource name."""
    return str(DatasetName(dataset.tenant, dataset.dataset_id))


async def create_dataset(context: Context, parent: str, dataset_id: str, display_name: str, key: RequestKey) -> Dataset:
    """Create an empty dataset."""
    violations = Violations()
    tenant = violations.name(TenantName, parent, "parent")
    violations.id("dataset", dataset_id, "dataset_id")
    violations.text(display_name, "dataset.display_name")
    key.check(violations)
    violations.raise_any()
    assert tenant is not None

    async def create(unit: UnitOfWork) -> tuple[str, Dataset]:
        await present_tenant(unit, tenant.tenant)
        made = new_dataset(context, DatasetName(tenant.tenant, dataset_id), display_name)
        await unit.datasets.add(made)
        await record(context, unit, None, made)
        return dataset_name(made), made

    async def read(unit: UnitOfWork, name: str) -> Dataset:
        return await present_dataset(unit, DatasetName.parse(name))

    return await create_once(context, f"CreateDataset {parent}", key, create, read)


async def get_dataset(context: Context, name: str) -> Dataset:
    """Read a dataset."""
    parsed = DatasetName.parse(name)
    async with context.units(write=False, snapshot=False) as unit:
        return await present_dataset(unit, parsed)


async def list_datasets(context: Context, parent: str, query: PageQuery) -> Listed[Dataset]:
    """A tenant's datasets, oldest first."""
    tenant = TenantName.parse(parent, "parent").tenant
    async with context.units(write=False, snapshot=False) as unit:
        await present_tenant(unit, tenant)
        return await read_page(
            f"ListDatasets {parent}", query, lambda limit, cursor: unit.datasets.list(tenant, limit, cursor)
        )


async def delete_dataset(context: Context, name: str, etag: str) -> None:
    """Delete a dataset with its versions, reports and files."""
    parsed = DatasetName.parse(name)
    async with context.units() as unit:
        dataset = await present_dataset(unit, parsed, for_update=True)
        check_etag(etag, name, dataset.create_time, dataset.revision)
        users = await unit.datasets.users(parsed.tenant, parsed.dataset)
        if users:
            used_by = ", ".join(users)
            raise error_for(Reason.RESOURCE_IN_USE, f"{name} is read by {used_by}.", metadata={"used_by": used_by})
        await unit.datasets.delete(parsed.tenant, parsed.dataset)
        await record(context, unit, dataset, None)
        await unit.commit()
    for prefix in (keys.dataset_prefix, keys.uploads_prefix):
        await asyncio.to_thread(context.store.delete_prefix, prefix(parsed.tenant, parsed.dataset))


async def get_dataset_version(context: Context, name: str) -> DatasetVersion:
    """Read a version."""
    parsed = DatasetVersionName.parse(name)
    async with context.units(write=False, snapshot=False) as unit:
        return await present_version(unit, parsed)


async def list_dataset_versions(context: Context, parent: str, query: PageQuery) -> Listed[DatasetVersion]:
    """A dataset's versions, newest first."""
    parsed = DatasetName.parse(parent, "parent")
    async with context.units(write=False) as unit:
        await present_dataset(unit, parsed)
        return await read_page(
            f"ListDatasetVersions {parent}",
            query,
            lambda limit, cursor: unit.datasets.list_versions(parsed.tenant, parsed.dataset, limit, cursor),
        )


async def download_dataset_version(
    context: Context, name: str, offset: int
) -> tuple[DatasetVersion, AsyncIterator[bytes]]:
    """A version and its file's bytes from `offset` on."""
    version = await get_dataset_version(context, name)
    if not 0 <= offset <= version.size_bytes:
        raise InvalidArgument.for_field("offset", f"{offset} is not between 0 and {version.size_bytes}.")
    return version, read_pieces(context.store, version.key, offset)


def new_dataset(context: Context, name: DatasetName, display_name: str = "") -> Dataset:
    """An empty dataset."""
    now = context.now()
    return Dataset(name.tenant, name.dataset, display_name, now, now)


async def present_dataset(unit: UnitOfWork, name: DatasetName, *, for_update: bool = False) -> Dataset:
    """The dataset; raises NotFound."""
    dataset = await unit.datasets.get(name.tenant, name.dataset, for_update=for_update)
    if dataset is None:
        raise NotFound.for_resource(name)
    return dataset


async def present_version(unit: UnitOfWork, name: DatasetVersionName) -> DatasetVersion:
    """The version, `latest` being the newest one; raises NotFound."""
    if name.version == LATEST:
        dataset = await present_dataset(unit, name.dataset_name)
        if dataset.latest_sha256 is None:
            raise NotFound.for_resource(name)
        name = replace(name, version=dataset.latest_sha256)
    version = await unit.datasets.get_version(name.tenant, name.dataset, name.version)
    if version is None:
        raise NotFound.for_resource(name)
    return version
