"""The trail as it is read: by whom, in pages, both ways."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from tests.contract.app.audited_calls import call
from tests.rpc_server import Door, open_door, refusal
from tests.server_fakes import World

from trellis.server.domain.base_model import BaseModel
from trellis.v1 import (
    access_pb2,
    api_key_pb2,
    audit_pb2,
    tenant_pb2,
)


@pytest.fixture
async def door(world: World, base: BaseModel) -> AsyncIterator[Door]:
    async with open_door(world) as opened:
        yield opened


async def listed(door: Door, who: str, parent: str, **filters: Any) -> list[audit_pb2.AuditEvent]:
    request = audit_pb2.ListAuditEventsRequest(parent=parent, **filters)
    return list((await call(door, "AuditService.ListAuditEvents", request, who)).events)


async def test_events_are_listed_for_whom_they_are(door: Door) -> None:
    update = tenant_pb2.UpdateTenantRequest(tenant=tenant_pb2.Tenant(name="tenants/acme", display_name="Acme"))
    await call(door, "TenantService.UpdateTenant", update, "admin", "renamed")
    [event] = await listed(door, "tenant-admin", "tenants/acme", method="UpdateTenant")
    assert (event.resource, event.tenant, event.request_id) == ("tenants/acme", "tenants/acme", "renamed")
    assert (event.role, event.source) == (access_pb2.ROLE_ADMIN, ""), "where operators are is not the tenant's to know"
    assert json_format.MessageToDict(event.after) == {"display_name": "Acme"}
    assert await listed(door, "stranger", "tenants/globex", method="UpdateTenant") == []
    event.source = "127.0.0.1"
    assert event in await listed(door, "admin", "tenants/-")
    assert {one.tenant for one in await listed(door, "admin", "platform")} == {""}
    for who, parent in (
        ("stranger", "tenants/acme"),
        ("member", "tenants/acme"),
        ("tenant-admin", "platform"),
        ("tenant-admin", "tenants/-"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(door, who, parent)
        assert refusal(caught.value).code == "PERMISSION_DENIED"


async def test_pages_go_through_the_trail_both_ways(door: Door) -> None:
    everything = await listed(door, "admin", "tenants/-")
    request = audit_pb2.ListAuditEventsRequest(parent="tenants/-", page_size=2)
    found: list[audit_pb2.AuditEvent] = []
    while True:
        answer = await call(door, "AuditService.ListAuditEvents", request, "admin")
        found += answer.events
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert found == everything
    sequences = [event.sequence for event in everything]
    assert sequences == sorted(sequences, reverse=True)
    after = await listed(door, "admin", "tenants/-", after_sequence=sequences[-2])
    assert [event.sequence for event in after] == sorted(sequences)[2:]


async def test_a_later_tenant_does_not_see_what_an_earlier_one_of_its_name_did(door: Door) -> None:
    world = door.world
    await call(door, "TenantService.DeleteTenant", tenant_pb2.DeleteTenantRequest(name="tenants/globex"), "admin")
    world.clock.advance(60)
    await call(door, "TenantService.CreateTenant", tenant_pb2.CreateTenantRequest(tenant_id="globex"), "admin")
    new = api_key_pb2.ApiKey(role=access_pb2.ROLE_TENANT_ADMIN)
    create = api_key_pb2.CreateApiKeyRequest(parent="tenants/globex", api_key=new)
    door.secrets["newcomer"] = (await call(door, "ApiKeyService.CreateApiKey", create, "admin")).secret
    methods = [event.method.rpartition("/")[2] for event in await listed(door, "newcomer", "tenants/globex")]
    assert methods == ["CreateApiKey", "CreateTenant"]
    methods = [event.method.rpartition("/")[2] for event in await listed(door, "admin", "tenants/globex")]
    assert "DeleteTenant" in methods
