"""Exports: what they are made of, who may have them, and their files in pieces."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.app.test_adapters import ALIAS, imported
from tests.rpc_server import open_door, refusal
from tests.server_fakes import ADMIN, TINY, World, collected, keys, submit, upload, validate, write_adapter

from trellis.bases import read_base
from trellis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Reason
from trellis.server.app import adapters, exports
from trellis.server.app.exports import NewExport
from trellis.server.app.idempotency import RequestKey
from trellis.server.app.pages import PageQuery
from trellis.server.domain.adapter import Adapter
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.export import Export, ExportFile, ExportFormat, ExportState
from trellis.server.domain.tuning_job import Checkpoint
from trellis.server.store import tables
from trellis.v1.export_pb2 import CreateExportRequest, Export as ExportMessage
from trellis.v1.export_pb2_grpc import ExportServiceStub

NAME = "tenants/acme/exports/mine"


@pytest.fixture
async def adapter(world: World, base: BaseModel, tmp_path: Path) -> Adapter:
    return await imported(world, write_adapter(tmp_path / "adapter", read_base(str(TINY))))


async def create(world: World, source: str, key: RequestKey | None = None, **changes: Any) -> Export:
    new = replace(NewExport("tenants/acme", source, "mine"), **changes)
    return await exports.create_export(world.context, world.member("acme"), new, key or RequestKey())


async def succeeded(world: World, export: Export, **files: bytes) -> Export:
    """The export, as if it had been made."""
    for name, data in files.items():
        world.store.put_bytes(f"{export.key}/{name}", data)
    listed = tuple(ExportFile(name, len(data), "0" * 64) for name, data in files.items())
    done = replace(export, state=ExportState.SUCCEEDED, files=listed, end_time=world.clock.now())
    async with world.context.units() as unit:
        await unit.exports.save(done)
        await unit.commit()
    return done


async def test_an_adapter_and_its_alias_are_the_same_source(world: World, adapter: Adapter) -> None:
    export = await create(world, adapter.name, display_name="To take away")
    assert export == await exports.get_export(world.context, NAME)
    assert (export.source, export.adapter_key, export.base_model) == (adapter.name, adapter.key, "baseModels/tiny")
    assert (export.state, export.format) == (ExportState.PENDING, ExportFormat.SAFETENSORS)
    assert export.key == f"tenants/acme/exports/{export.uid}"
    await adapters.set_alias(world.context, ADMIN, ALIAS, adapter.name, "")
    other = await create(world, ALIAS, export_id="")
    assert (other.source, other.adapter_key, other.export_id) == (adapter.name, adapter.key, other.uid)
    page = await exports.list_exports(world.context, "tenants/acme", PageQuery())
    assert {one.name for one in page.items} == {export.name, other.name}


async def test_a_checkpoint_is_exported_by_its_key(world: World, base: BaseModel) -> None:
    version = await upload(world.context, "acme")
    await validate(world.context, version, base)
    job = await submit(world.context, "acme")
    async with world.context.units() as unit:
        await unit.jobs.add_checkpoint(job.uid, Checkpoint(50, 1, "the/key", 10, world.clock.now()))
        await unit.commit()
    export = await create(world, f"{job.name}/checkpoints/50")
    assert (export.source, export.adapter_key) == (f"{job.name}/checkpoints/50", "the/key")
    with pytest.raises(NotFound, match="checkpoints/51"):
        await create(world, f"{job.name}/checkpoints/51", export_id="other")


async def test_the_checkpoints_of_full_tuning_hold_no_adapter(world: World, base: BaseModel) -> None:
    await validate(world.context, await upload(world.context, "acme"), base)
    job = await submit(world.context, "acme")
    async with world.context.units() as unit:
        present = await unit.jobs.get_by_uid(job.uid, for_update=True)
        assert present is not None
        await unit.jobs.save(replace(present, spec=replace(present.spec, full=True)))
        await unit.jobs.add_checkpoint(job.uid, Checkpoint(50, 1, "the/key", 10, world.clock.now()))
        await unit.commit()
    with pytest.raises(FailedPrecondition, match="trains all weights"):
        await create(world, f"{job.name}/checkpoints/50")


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ("", "export.source"),
        ("tenants/acme/tuningJobs/a", "export.source"),
        ("tenants/acme/adapters/zz", "export.source"),
        ("baseModels/tiny", "export.source"),
    ],
)
async def test_what_is_no_source_is_refused(world: World, base: BaseModel, source: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await create(world, source)
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_gguf_is_refused_with_the_way_to_one(world: World, adapter: Adapter) -> None:
    with pytest.raises(InvalidArgument, match=r"convert_hf_to_gguf\.py") as caught:
        await create(world, adapter.name, format=ExportFormat.GGUF)
    assert caught.value.violations[0].field == "export.format"


async def test_what_is_not_there_is_not_found(world: World, base: BaseModel) -> None:
    for source in (f"tenants/acme/adapters/{'0' * 24}", "tenants/acme/aliases/none"):
        with pytest.raises(NotFound):
            await create(world, source)
    with pytest.raises(NotFound):
        await exports.get_export(world.context, NAME)


async def test_another_tenants_adapter_is_no_source(world: World, adapter: Adapter) -> None:
    new = NewExport("tenants/globex", adapter.name, "mine")
    with pytest.raises(PermissionDenied):
        await exports.create_export(world.context, world.member("globex"), new, RequestKey())
    with pytest.raises(InvalidArgument, match="not one of tenants/globex"):
        await exports.create_export(world.context, ADMIN, new, RequestKey())


async def test_a_base_that_was_registered_anew_is_refused(world: World, adapter: Adapter, base: BaseModel) -> None:
    async with world.context.units() as unit:
        await unit.base_models.save(replace(base, revision="another"))
        await unit.commit()
    with pytest.raises(FailedPrecondition, match="another") as caught:
        await create(world, adapter.name)
    assert caught.value.reason == Reason.BASE_MODEL_UNAVAILABLE


async def test_a_create_may_be_repeated(world: World, adapter: Adapter) -> None:
    key = RequestKey("once", "f" * 64)
    export = await create(world, adapter.name, key)
    assert await create(world, adapter.name, key) == export
    with pytest.raises(AlreadyExists) as reused:
        await create(world, adapter.name, RequestKey("once", "0" * 64))
    assert reused.value.reason == Reason.REQUEST_ID_REUSED
    with pytest.raises(AlreadyExists):
        await create(world, adapter.name)


async def test_files_come_in_pieces_from_any_offset(world: World, adapter: Adapter) -> None:
    data = bytes(range(256)) * 12_000
    export = await succeeded(world, await create(world, adapter.name), weights=data, empty=b"")

    def read(path: str, offset: int = 0) -> AsyncIterator[Any]:
        return exports.read_export_file(world.context, export.name, path, offset)

    pieces: list[Any] = await collected(read("weights", 1000))
    assert b"".join(piece.data for piece in pieces) == data[1000:]
    assert max(len(piece.data) for piece in pieces) <= 1 << 20
    assert [piece.offset for piece in pieces] == [1000, 1000 + (1 << 20), 1000 + (2 << 20)]
    assert await collected(read("weights", len(data))) == []
    assert await collected(read("empty")) == []
    for offset in (-1, len(data) + 1):
        with pytest.raises(InvalidArgument, match="is not between 0"):
            await collected(read("weights", offset))
    for path in ("other", "../weights", "task.json", ""):
        with pytest.raises(NotFound):
            await collected(read(path))


async def test_files_are_read_when_it_succeeded(world: World, adapter: Adapter) -> None:
    export = await create(world, adapter.name)
    with pytest.raises(FailedPrecondition, match="PENDING") as caught:
        await collected(exports.read_export_file(world.context, export.name, "weights", 0))
    assert caught.value.reason == Reason.INVALID_STATE


async def test_an_export_is_deleted_with_its_files(world: World, adapter: Adapter) -> None:
    before = set(keys(world.store))
    export = await succeeded(world, await create(world, adapter.name), weights=b"data")
    await exports.delete_export(world.context, export.name)
    assert set(keys(world.store)) == before
    with pytest.raises(NotFound):
        await exports.delete_export(world.context, export.name)
    assert (await create(world, adapter.name)).uid != export.uid


@pytest.mark.parametrize("damaged", ["", "{", '{"version": 1}', "null"])
async def test_a_damaged_manifest_is_said_through_the_api(
    world: World, adapter: Adapter, engine: AsyncEngine, damaged: str
) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(tables.adapters).values(manifest_json=damaged))
    wanted = CreateExportRequest(parent="tenants/acme", export=ExportMessage(source=adapter.name))
    async with open_door(world) as door:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ExportServiceStub(door.channel).CreateExport(wanted, metadata=door.key("member"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    said = refusal(caught.value)
    assert (said.reason, said.details["ErrorInfo"].metadata["code"]) == ("ADAPTER_INVALID", "bad_manifest")
    assert adapter.name in said.message
    assert said.message.endswith("Delete it, and import it or train it anew.")
