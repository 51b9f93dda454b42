"""Every call that changes something leaves what it changed in the trail, over a real socket; those that change nothing, nothing."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.contract.app.audit_story import story
from tests.contract.app.audited_calls import METHODS, call, events_of, path_of, trail
from tests.contract.app.test_checkpoints import Run
from tests.rpc_server import Door, open_door, refusal
from tests.server_fakes import TINY, World, admit, submit, upload, validate, write_adapter

from trellis.bases import read_base
from trellis.server.app import attempts
from trellis.server.app.attempts import Process
from trellis.server.domain.base_model import BaseModel
from trellis.v1 import (
    access_pb2,
    tenant_pb2,
)

READING = {"GetApiKey", "ListApiKeys", "ListAuditEvents"}
"""Methods of the scope MANAGE that change nothing."""


@pytest.fixture
async def door(world: World, base: BaseModel) -> AsyncIterator[Door]:
    async with open_door(world) as opened:
        yield opened


def test_the_story_has_every_method_that_changes_something(tmp_path: Path) -> None:
    told = {f"trellis.v1.{deed.method}" for deed in story(tmp_path)}
    scopes = {name: method.GetOptions().Extensions[access_pb2.access].scope for name, method in METHODS.items()}
    changing = {name for name, scope in scopes.items() if scope in {access_pb2.SCOPE_WRITE, access_pb2.SCOPE_MANAGE}}
    assert told == {name for name in changing if name.rpartition(".")[2] not in READING}


def filled(values: dict[str, Any], names: dict[str, str], found: dict[str, Any]) -> dict[str, Any]:
    """What is expected, with names; `...` stands for whatever was found."""
    plain = {key: value.format(**names) if isinstance(value, str) else value for key, value in values.items()}
    return {key: found.get(key, "missing") if value is ... else value for key, value in plain.items()}


async def test_every_change_is_in_the_trail_once_and_what_changes_nothing_is_not(
    door: Door, base: BaseModel, tmp_path: Path
) -> None:
    names = await a_job_with_a_checkpoint(door.world, base, tmp_path)
    for number, deed in enumerate(story(write_adapter(tmp_path / "mine", read_base(str(TINY)), scale=0.5))):
        request_id = f"deed-{number}"
        answer = await call(door, deed.method, deed.request(names), deed.who, request_id)
        if deed.keep:
            names[deed.keep] = answer.api_key.name if deed.keep == "key" else answer.name
        found = await events_of(door.world, request_id)
        if not deed.resource:
            assert found == [], f"{deed.method}, number {number}, changed nothing"
            continue
        event, *others = found
        where = f"{deed.method}, number {number}"
        assert [one.resource for one in others] == list(deed.also), where
        assert event.resource == deed.resource.format(**names), where
        assert event.method == path_of(deed.method), where
        assert event.before == filled(deed.before, names, dict(event.before)), where
        assert event.after == filled(deed.after, names, dict(event.after)), where
        role = {"admin": "ADMIN", "member": "MEMBER", "tenant-admin": "TENANT_ADMIN"}[deed.who]
        assert (event.role, event.status, event.source) == (role, "OK", "127.0.0.1"), where
        assert event.principal.startswith("platform/apiKeys/" if deed.who == "admin" else "tenants/acme/apiKeys/")
        assert event.tenant == (None if event.resource.startswith("baseModels/") else event.resource.split("/")[1])


async def a_job_with_a_checkpoint(world: World, base: BaseModel, folder: Path) -> dict[str, str]:
    await validate(world.context, await upload(world.context, "acme"), base)
    job = await submit(world.context, "acme")
    _, caller = await admit(world.context, job)
    work = await attempts.start_attempt(world.context, caller, Process("1", "host", 1))
    run = Run(world, job, caller, work, folder / "checkpoints")
    await run.commit(5)
    return {"other": job.name, "checkpoint": run.name(5)}


async def test_a_change_that_fails_leaves_no_event(door: Door) -> None:
    request = tenant_pb2.CreateTenantRequest(tenant_id="acme")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(door, "TenantService.CreateTenant", request, "admin", "twice")
    assert refusal(caught.value).code == "ALREADY_EXISTS"
    assert await events_of(door.world, "twice") == []


async def test_a_use_case_that_records_nothing_is_found_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgets(*_: object, **__: object) -> None: ...

    monkeypatch.setattr("trellis.server.app.tenants.record", forgets)
    request = tenant_pb2.CreateTenantRequest(tenant_id="silent")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(door, "TenantService.CreateTenant", request, "admin")
    assert refusal(caught.value).code == "INTERNAL"


async def test_what_nobody_called_for_is_the_platforms(world: World, base: BaseModel) -> None:
    event = next(event for event in await trail(world) if event.resource == base.name)
    assert (event.principal, event.role, event.method, event.source) == ("platform", "", "FirstStart", "")
