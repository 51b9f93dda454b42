"""Adapters that tenants share: who may call them, as whom, and for how long; over a real socket."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.contract.app.audited_calls import call
from tests.contract.app.test_adapters import ALIAS, folder, imported
from tests.contract.app.test_inference import TalkingEngine
from tests.rpc_server import Door, make_key, open_door, refusal
from tests.server_fakes import World

from trellis.server.app import adapters
from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Role
from trellis.v1 import (
    adapter_pb2,
    export_pb2,
    inference_pb2,
    tenant_pb2,
    tuning_job_pb2,
)

__all__ = ["folder"]
GUEST = "tenants/globex"
NOT_THERE = "tenants/acme/adapters/" + "0" * 24


@pytest.fixture
def database() -> str:
    """What both databases have to do with it, tests/contract/store shows."""
    return "sqlite"


@pytest.fixture
def talking() -> TalkingEngine:
    return TalkingEngine()


@pytest.fixture
async def door(world: World, base: BaseModel, talking: TalkingEngine) -> AsyncIterator[Door]:
    """The guest is `stranger`, a tenant admin of globex."""
    context = replace(world.context, engines=talking)  # type: ignore[arg-type]
    async with open_door(replace(world, context=context)) as opened:
        yield opened


@pytest.fixture
async def adapter(world: World, door: Door, folder: Path) -> Adapter:
    """Deployed, with an alias."""
    made = await imported(world, folder)
    async with world.context.units() as unit:
        await unit.adapters.save(replace(made, deployment=Deployment.DEPLOYED))
        await unit.commit()
    await adapters.set_alias(world.context, world.member("acme"), ALIAS, made.name, "")
    return made


async def share(door: Door, adapter: Adapter, guest: str = GUEST, who: str = "tenant-admin") -> Any:
    request = adapter_pb2.ShareAdapterRequest(name=adapter.name, tenant=guest)
    return await call(door, "AdapterService.ShareAdapter", request, who)


async def unshare(door: Door, adapter: Adapter) -> None:
    request = adapter_pb2.RevokeAdapterShareRequest(name=adapter.name, tenant=GUEST)
    await call(door, "AdapterService.RevokeAdapterShare", request, "tenant-admin")


async def generate(door: Door, model: str, who: str = "stranger") -> list[Any]:
    path = "/trellis.v1.InferenceService/Generate"
    codec: dict[str, Any] = {
        "request_serializer": inference_pb2.GenerateRequest.SerializeToString,
        "response_deserializer": inference_pb2.GenerateResponse.FromString,
    }
    request = inference_pb2.GenerateRequest(model=model, prompt="Hello")
    answer = door.channel.unary_stream(path, **codec)(request, metadata=door.key(who))
    return [piece async for piece in answer]


async def get(door: Door, name: str, who: str = "stranger") -> Any:
    return await call(door, "AdapterService.GetAdapter", adapter_pb2.GetAdapterRequest(name=name), who)


async def said(deed: Any) -> tuple[str, str]:
    """Code and message of the refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await deed
    refused = refusal(caught.value)
    return refused.code, refused.message


async def shared_with_guest(door: Door) -> list[Any]:
    request = adapter_pb2.ListSharedAdaptersRequest(parent=GUEST)
    return list((await call(door, "AdapterService.ListSharedAdapters", request, "stranger")).adapters)


async def test_a_guest_calls_the_adapter_as_itself(door: Door, adapter: Adapter, talking: TalkingEngine) -> None:
    await share(door, adapter)
    for model in (adapter.name, ALIAS):
        first, *_ = await generate(door, model)
        assert first.adapter_digest == adapter.digest
        _, asked = talking.asked[-1]
        assert (asked.tenant_id, asked.adapter_digest, asked.adapter_key) == ("globex", adapter.digest, adapter.key)
    await generate(door, adapter.name, "member")
    assert talking.asked[-1][1].tenant_id == "acme"


async def test_what_a_guest_uses_is_its_own(world: World, door: Door, adapter: Adapter) -> None:
    await share(door, adapter)
    await generate(door, adapter.name)
    async with world.context.units(write=False) as unit:
        owners = await unit.ledger.entries(LedgerRange("acme"), 10, None)
        guests = await unit.ledger.entries(LedgerRange("globex"), 10, None)
    assert not owners.items
    assert {entry.adapter for entry in guests.items} == {adapter.name}


async def test_a_guest_sees_the_adapter_but_nothing_of_its_making(world: World, door: Door, adapter: Adapter) -> None:
    async with world.context.units() as unit:
        job = replace(adapter, deployment=Deployment.DEPLOYED, tuning_job="tenants/acme/tuningJobs/secret")
        await unit.adapters.save(job)
        await unit.commit()
    await share(door, adapter)
    seen = await get(door, adapter.name)
    assert (seen.name, seen.digest, seen.rank) == (adapter.name, adapter.digest, 2)
    assert seen.tuning_job == ""
    assert not seen.manifest.fields
    assert [one.name for one in await shared_with_guest(door)] == [adapter.name]
    own = await get(door, adapter.name, "member")
    assert own.tuning_job
    assert own.manifest.fields


async def test_strangers_hear_the_same_whether_or_not_there_is_such_an_adapter(door: Door, adapter: Adapter) -> None:
    names = (
        adapter.name,
        NOT_THERE,
        ALIAS,
        f"{ALIAS}x",
        "tenants/nonesuch/adapters/" + "0" * 24,
        "tenants/acme/x/../y",
    )
    heard = {await said(generate(door, name)) for name in names}
    heard |= {await said(get(door, name)) for name in names}
    assert len(heard) == 1
    assert heard.pop()[0] == "PERMISSION_DENIED"


async def test_a_share_ends_with_the_next_call(door: Door, adapter: Adapter) -> None:
    await share(door, adapter)
    assert await generate(door, adapter.name)
    await unshare(door, adapter)
    assert (await said(generate(door, adapter.name)))[0] == "PERMISSION_DENIED"
    assert (await said(get(door, adapter.name)))[0] == "PERMISSION_DENIED"
    assert await shared_with_guest(door) == []
    await unshare(door, adapter)


async def test_an_alias_that_moves_to_what_is_not_shared_is_closed_to_guests(
    world: World, door: Door, adapter: Adapter
) -> None:
    await share(door, adapter)
    other = replace(adapter, digest="e" * 64, deployment=Deployment.DEPLOYED)
    async with world.context.units() as unit:
        await unit.adapters.add(other)
        await unit.commit()
    assert await generate(door, ALIAS)
    await adapters.set_alias(world.context, world.member("acme"), ALIAS, other.name, "")
    assert (await said(generate(door, ALIAS)))[0] == "PERMISSION_DENIED"
    assert await generate(door, ALIAS, "member")


async def test_a_guest_can_do_nothing_else_with_it(world: World, door: Door, adapter: Adapter) -> None:
    await share(door, adapter)
    a, name = adapter_pb2, adapter.name
    job = tuning_job_pb2.TuningJob(training_dataset=f"{GUEST}/datasets/q", initial_adapter=name)
    deeds = {
        "AdapterService.DeployAdapter": a.DeployAdapterRequest(name=name),
        "AdapterService.UndeployAdapter": a.UndeployAdapterRequest(name=name),
        "AdapterService.DeleteAdapter": a.DeleteAdapterRequest(name=name),
        "AdapterService.ShareAdapter": a.ShareAdapterRequest(name=name, tenant="tenants/initech"),
        "AdapterService.RevokeAdapterShare": a.RevokeAdapterShareRequest(name=name, tenant=GUEST),
        "AdapterService.ListAdapterShares": a.ListAdapterSharesRequest(parent=name),
        "AdapterService.GetAlias": a.GetAliasRequest(name=ALIAS),
        "AdapterService.SetAlias": a.SetAliasRequest(alias=a.Alias(name=f"{GUEST}/aliases/mine", adapter=name)),
        "ExportService.CreateExport": export_pb2.CreateExportRequest(
            parent=GUEST, export=export_pb2.Export(source=name)
        ),
        "TuningJobService.CreateTuningJob": tuning_job_pb2.CreateTuningJobRequest(parent=GUEST, tuning_job=job),
    }
    for method, request in deeds.items():
        assert (await said(call(door, method, request, "stranger")))[0] == "PERMISSION_DENIED", method
    assert (await said(download(door, name)))[0] == "PERMISSION_DENIED"


async def download(door: Door, name: str) -> None:
    codec: dict[str, Any] = {
        "request_serializer": adapter_pb2.DownloadAdapterRequest.SerializeToString,
        "response_deserializer": adapter_pb2.DownloadAdapterResponse.FromString,
    }
    path = "/trellis.v1.AdapterService/DownloadAdapter"
    async for _ in door.channel.unary_stream(path, **codec)(
        adapter_pb2.DownloadAdapterRequest(name=name), metadata=door.key("stranger")
    ):
        pass


async def test_members_share_nothing_and_nobody_shares_with_itself(door: Door, adapter: Adapter) -> None:
    assert (await said(share(door, adapter, who="member")))[0] == "PERMISSION_DENIED"
    for guest in ("tenants/acme", "globex", "", "tenants/-"):
        assert (await said(share(door, adapter, guest)))[0] == "INVALID_ARGUMENT", guest
    missing = adapter_pb2.ShareAdapterRequest(name=NOT_THERE, tenant=GUEST)
    assert (await said(call(door, "AdapterService.ShareAdapter", missing, "tenant-admin")))[0] == "NOT_FOUND"


async def test_an_adapter_has_so_many_shares_and_no_more(
    door: Door, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trellis.server.app.shares.MAX_SHARES", 2)
    for guest in (GUEST, "tenants/b", GUEST):
        await share(door, adapter, guest)
    code, message = await said(share(door, adapter, "tenants/c"))
    assert (code, "2 tenants, which is the most" in message) == ("FAILED_PRECONDITION", True)


async def test_the_owner_does_not_learn_which_tenants_there_are(door: Door, adapter: Adapter) -> None:
    for guest in (GUEST, "tenants/nonesuch"):
        assert (await share(door, adapter, guest)).tenant == guest
    request = adapter_pb2.ListAdapterSharesRequest(parent=adapter.name)
    listed = await call(door, "AdapterService.ListAdapterShares", request, "member")
    assert [(one.adapter, one.tenant) for one in listed.shares] == [
        (adapter.name, GUEST),
        (adapter.name, "tenants/nonesuch"),
    ]


async def test_a_tenant_that_comes_later_does_not_come_into_shares(world: World, door: Door, adapter: Adapter) -> None:
    await share(door, adapter, "tenants/later")
    world.clock.advance(1)
    await call(door, "TenantService.CreateTenant", tenant_pb2.CreateTenantRequest(tenant_id="later"), "admin")
    door.secrets["later"] = await make_key(door.world, "later", Role.MEMBER)
    assert (await said(generate(door, adapter.name, "later")))[0] == "PERMISSION_DENIED"
    await share(door, adapter, "tenants/later")
    assert await generate(door, adapter.name, "later")


async def test_an_admin_is_no_guest_and_may_call_all(door: Door, adapter: Adapter, talking: TalkingEngine) -> None:
    assert await generate(door, adapter.name, "admin")
    assert talking.asked[-1][1].tenant_id == "acme"
