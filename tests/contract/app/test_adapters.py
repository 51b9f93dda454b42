"""Adapters, aliases, imports."""

import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from tests.database_lost import DatabaseLost
from tests.server_fakes import ADMIN, TINY, World, collected, keys, write_adapter

from trellis.artifacts import ADAPTER_FILES
from trellis.bases import read_base
from trellis.errors import FailedPrecondition, NotFound, PermissionDenied, Reason, TrellisError, Unavailable
from trellis.server.app import adapters, imports
from trellis.server.app.imports import ImportedFile, ImportHeader
from trellis.server.app.pages import PageQuery
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.domain.base_model import BaseModel

HEADER = ImportHeader("tenants/acme", "baseModels/tiny", "Mine")
ALIAS = "tenants/acme/aliases/support"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", read_base(str(TINY)))


async def parts(folder: Path, names: Iterable[str] = ADAPTER_FILES) -> AsyncIterator[ImportedFile | bytes]:
    for name in names:
        data = (folder / name).read_bytes()
        yield ImportedFile(name, len(data), hashlib.sha256(data).hexdigest())
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]


async def imported(world: World, folder: Path) -> Adapter:
    return await imports.import_adapter(world.context, HEADER, parts(folder))


async def reason_of(world: World, stream: AsyncIterator[ImportedFile | bytes], header: ImportHeader = HEADER) -> str:
    with pytest.raises(TrellisError) as caught:
        await imports.import_adapter(world.context, header, stream)
    assert not keys(world.store)
    return caught.value.reason


async def test_an_import_comes_out_as_it_went_in(world: World, base: BaseModel, folder: Path) -> None:
    adapter = await imported(world, folder)
    assert (adapter.rank, adapter.target_modules, adapter.deployment) == (2, ("q_proj",), Deployment.UNDEPLOYED)
    assert await imported(world, folder) == adapter
    assert len(keys(world.store)) == 3  # type: ignore[arg-type]
    read = {}
    async for file in adapters.download_adapter(world.context, adapter.name):
        data = b"".join(await collected(file.pieces))
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.facts.sha256, file.facts.size)
        read[file.name] = data
    assert read["adapter_config.json"] == (folder / "adapter_config.json").read_bytes()
    assert set(read) == {*ADAPTER_FILES, "manifest.json"}


@pytest.mark.parametrize("took_effect", [False, True])
async def test_an_import_that_may_have_been_recorded_keeps_its_files(
    world: World, base: BaseModel, folder: Path, took_effect: bool
) -> None:
    lost = DatabaseLost(world.context.units, 1, took_effect=took_effect)
    with pytest.raises(Unavailable):
        await imports.import_adapter(replace(world.context, units=lost), HEADER, parts(folder))
    adapter = await imported(world, folder)
    assert world.store.exists(f"{adapter.key}/{ADAPTER_FILES[0]}")


async def test_what_is_no_adapter_is_refused(world: World, base: BaseModel, folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    good = weights.read_bytes()
    tensors = load_file(weights)
    first = min(tensors)

    assert await reason_of(world, parts(folder, ADAPTER_FILES[:1])) == Reason.ADAPTER_INVALID
    weights.write_bytes(b"\x80\x04\x95" + b"x" * 100)
    assert await reason_of(world, parts(folder)) == Reason.ADAPTER_INVALID
    for wrong in (tensors[first][:, :-1], tensors[first] * float("nan")):
        save_file({**tensors, first: wrong.copy()}, weights)
        assert await reason_of(world, parts(folder)) == Reason.ADAPTER_INVALID
    save_file({name: tensor * 0 for name, tensor in tensors.items()}, weights)
    assert await reason_of(world, parts(folder)) == Reason.ADAPTER_INVALID
    (folder / "adapter_model.bin").write_bytes(b"x")
    assert await reason_of(world, parts(folder, ["adapter_model.bin"])) == Reason.ADAPTER_INVALID
    (folder / "notes.txt").write_bytes(b"x")
    assert await reason_of(world, parts(folder, ["notes.txt"])) == Reason.INVALID_FIELD
    weights.write_bytes(good)
    header = replace(HEADER, base_model="baseModels/none")
    assert await reason_of(world, parts(folder), header) == Reason.BASE_MODEL_UNAVAILABLE


async def test_streams_that_are_not_what_they_announce_are_refused(world: World, base: BaseModel, folder: Path) -> None:
    data = (folder / "adapter_config.json").read_bytes()
    good = ImportedFile("adapter_config.json", len(data), hashlib.sha256(data).hexdigest())

    async def stream(*items: ImportedFile | bytes) -> AsyncIterator[ImportedFile | bytes]:
        for item in items:
            yield item

    assert await reason_of(world, stream(data)) == Reason.INVALID_FIELD
    assert await reason_of(world, stream(good, data[:-1])) == Reason.UPLOAD_INCOMPLETE
    assert await reason_of(world, stream(good, data, b"x")) == Reason.FILE_TOO_LARGE
    assert await reason_of(world, stream(replace(good, sha256="0" * 64), data)) == Reason.CHECKSUM_MISMATCH
    assert await reason_of(world, stream(good, data, good)) == Reason.INVALID_FIELD
    assert await reason_of(world, stream(replace(good, filename="../adapter_config.json"))) == Reason.INVALID_FIELD
    assert await reason_of(world, stream(replace(good, size_bytes=1 << 40))) == Reason.FILE_TOO_LARGE


async def test_deployment_is_wanted_or_not(world: World, base: BaseModel, folder: Path) -> None:
    adapter = await imported(world, folder)
    deployed = await adapters.deploy_adapter(world.context, adapter.name)
    assert deployed.deployment is Deployment.DEPLOYING
    assert await adapters.deploy_adapter(world.context, adapter.name) == deployed
    with pytest.raises(FailedPrecondition) as caught:
        await adapters.delete_adapter(world.context, adapter.name, "")
    assert caught.value.reason == Reason.RESOURCE_IN_USE
    undeployed = await adapters.undeploy_adapter(world.context, adapter.name)
    assert undeployed.deployment is Deployment.UNDEPLOYED
    await adapters.delete_adapter(world.context, adapter.name, "")
    assert not keys(world.store)


async def test_an_alias_moves_and_holds_its_adapter(world: World, base: BaseModel, folder: Path) -> None:
    adapter = await imported(world, folder)
    alias = await adapters.set_alias(world.context, ADMIN, ALIAS, adapter.name, "")
    moved = await adapters.set_alias(world.context, ADMIN, ALIAS, adapter.name, "")
    assert (alias.revision, moved.revision) == (1, 2)
    with pytest.raises(TrellisError) as stale:
        await adapters.set_alias(world.context, ADMIN, ALIAS, adapter.name, "stale")
    assert stale.value.reason == Reason.ETAG_MISMATCH
    with pytest.raises(FailedPrecondition, match="support"):
        await adapters.delete_adapter(world.context, adapter.name, "")
    page = await adapters.list_aliases(world.context, "tenants/acme", PageQuery())
    assert list(page.items) == [moved]
    await adapters.delete_alias(world.context, ALIAS, "")
    with pytest.raises(NotFound):
        await adapters.get_alias(world.context, ALIAS)


async def test_an_alias_points_into_its_own_tenant(world: World, base: BaseModel, folder: Path) -> None:
    adapter = await imported(world, folder)
    with pytest.raises(PermissionDenied):
        await adapters.set_alias(world.context, world.member("globex"), "tenants/globex/aliases/a", adapter.name, "")
    with pytest.raises(TrellisError) as caught:
        await adapters.set_alias(world.context, ADMIN, "tenants/globex/aliases/a", adapter.name, "")
    assert caught.value.reason == Reason.INVALID_FIELD
