"""Tenants, keys, callers, pages and repeated creates."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.server_fakes import ADMIN, World, keys, upload

from trellis.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    TrellisError,
    Unauthenticated,
)
from trellis.server.app import api_keys, authentication, authorisation, datasets, tenants
from trellis.server.app.api_keys import NewApiKey
from trellis.server.app.etags import etag_of
from trellis.server.app.idempotency import RequestKey
from trellis.server.app.pages import PageQuery
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller, Role
from trellis.server.domain.tenant import Tenant


async def new_key(world: World, tenant: str, role: Role = Role.MEMBER, **changes: object) -> tuple[str, str]:
    new = replace(NewApiKey(f"tenants/{tenant}", "", role, None), **changes)  # type: ignore[arg-type]
    key, secret = await api_keys.create_api_key(world.context, ADMIN, new)
    return key.name, secret


async def reason_of(world: World, authorization: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await authentication.authenticate(world.context, authorization)
    return caught.value.reason


async def test_a_secret_says_who_calls_until_it_is_revoked_or_expires(world: World, base: BaseModel) -> None:
    name, secret = await new_key(world, "acme")
    caller = await authentication.authenticate(world.context, f"Bearer {secret}")
    assert (caller.role, caller.tenant) == (Role.MEMBER, "acme")

    await api_keys.revoke_api_key(world.context, name)
    assert await reason_of(world, f"Bearer {secret}") == Reason.API_KEY_REVOKED
    until = world.clock.now() + timedelta(seconds=5)
    _, mortal = await new_key(world, "acme", expire_time=until)
    await authentication.authenticate(world.context, f"bearer {mortal}")
    world.clock.advance(5)
    assert await reason_of(world, f"Bearer {mortal}") == Reason.API_KEY_EXPIRED
    assert await reason_of(world, "") == Reason.API_KEY_INVALID
    assert await reason_of(world, "Bearer trk_unknown") == Reason.API_KEY_INVALID
    assert await reason_of(world, "Bearer tra_unknown") == Reason.API_KEY_INVALID


async def test_the_secret_is_not_kept(world: World, base: BaseModel) -> None:
    name, secret = await new_key(world, "acme")
    key = await api_keys.get_api_key(world.context, name)
    assert secret not in repr(key)
    assert secret.startswith(key.prefix)


async def test_the_first_admin_is_made_once(world: World) -> None:
    secret = await authentication.create_first_admin_key(world.context)
    assert secret is not None
    assert (await authentication.authenticate(world.context, f"Bearer {secret}")).role is Role.ADMIN
    assert await authentication.create_first_admin_key(world.context) is None
    page = await api_keys.list_api_keys(world.context, "platform", PageQuery())
    await api_keys.revoke_api_key(world.context, page.items[0].name)
    assert await authentication.create_first_admin_key(world.context, "trk_mine") == "trk_mine"


async def test_nobody_makes_a_key_above_their_own(world: World, base: BaseModel) -> None:
    tenant_admin = Caller(Role.TENANT_ADMIN, "acme", "k")
    for new in (NewApiKey("tenants/acme", "", Role.ADMIN, None), NewApiKey("platform", "", Role.ADMIN, None)):
        with pytest.raises(PermissionDenied):
            await api_keys.create_api_key(world.context, tenant_admin, new)
    with pytest.raises(InvalidArgument, match=r"MEMBER or TENANT_ADMIN"):
        await api_keys.create_api_key(world.context, ADMIN, NewApiKey("tenants/acme", "", Role.ADMIN, None))
    with pytest.raises(NotFound):
        await api_keys.create_api_key(world.context, ADMIN, NewApiKey("tenants/nobody", "", Role.MEMBER, None))


@pytest.mark.parametrize("role", list(Role))
def test_roles_are_ordered_and_processes_stand_outside(role: Role) -> None:
    processes = {Role.ATTEMPT, Role.TRAINER}
    caller = Caller(role, "acme", "k")
    allowed = {wanted for wanted in Role if caller.has_role(wanted)}
    for wanted in set(Role) - allowed:
        with pytest.raises(PermissionDenied):
            authorisation.require_role(caller, wanted)
    assert allowed == ({role} if role in processes else {other for other in Role if other <= role} - processes)


async def test_the_same_request_id_gives_the_same_tenant(world: World) -> None:
    key = RequestKey("r1", "f1")
    made = await asyncio.gather(*(tenants.create_tenant(world.context, "acme", "A", key) for _ in range(5)))
    assert len({tenant.create_time for tenant in made}) == 1
    with pytest.raises(AlreadyExists) as caught:
        await tenants.create_tenant(world.context, "other", "A", RequestKey("r1", "f2"))
    assert caught.value.reason == Reason.REQUEST_ID_REUSED
    with pytest.raises(AlreadyExists) as caught:
        await tenants.create_tenant(world.context, "acme", "A", RequestKey("r2", "f1"))
    assert caught.value.reason == Reason.RESOURCE_EXISTS


async def test_all_wrong_fields_are_said_at_once(world: World) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await tenants.create_tenant(world.context, "../x", "a" * 101, RequestKey("r" * 101), serving_weight=-1)
    assert {v.field for v in caught.value.violations} == {
        "tenant_id", "tenant.display_name", "tenant.serving_weight", "request_id"
    }  # fmt: skip


async def test_what_the_mask_names_is_changed(world: World) -> None:
    made = await tenants.create_tenant(world.context, "acme", "A", RequestKey(), serving_weight=3)

    async def update(
        mask: tuple[str, ...], display_name: str = "", serving_weight: float = 0.0, etag: str = ""
    ) -> Tenant:
        wanted = {"display_name": display_name, "serving_weight": serving_weight}
        return await tenants.update_tenant(world.context, "tenants/acme", etag, wanted, mask)

    assert await update((), "B") == replace(made, display_name="B", revision=2)
    assert await update(("serving_weight",), "C", 0.5) == replace(
        made, display_name="B", serving_weight=0.5, revision=3
    )
    assert await update(("serving_weight",), "C", 0.5) == await tenants.get_tenant(world.context, "tenants/acme")
    changed = await update(("*",))
    assert changed == replace(made, display_name="", serving_weight=1.0, revision=4)
    old = etag_of("tenants/acme", made.create_time, 3)
    with pytest.raises(TrellisError) as caught:
        await update((), "D", etag=old)
    assert caught.value.reason == Reason.ETAG_MISMATCH
    assert await update((), "D", etag=etag_of("tenants/acme", made.create_time, 4)) != changed


@pytest.mark.parametrize(
    ("wanted", "mask", "fields"),
    [
        ({"serving_weight": 0.009}, (), ["tenant.serving_weight"]),
        ({"serving_weight": 100.5}, (), ["tenant.serving_weight"]),
        ({"serving_weight": float("nan")}, (), ["tenant.serving_weight"]),
        ({"display_name": "a" * 101}, ("*",), ["tenant.display_name"]),
        ({}, ("name", "display_name"), ["update_mask"]),
    ],
)
async def test_what_cannot_be_changed_so_is_named(
    world: World, wanted: dict[str, object], mask: tuple[str, ...], fields: list[str]
) -> None:
    await tenants.create_tenant(world.context, "acme", "", RequestKey())
    with pytest.raises(InvalidArgument) as caught:
        await tenants.update_tenant(
            world.context, "tenants/acme", "", {"display_name": "", "serving_weight": 0.0, **wanted}, mask
        )
    assert [violation.field for violation in caught.value.violations] == fields


async def test_a_tenant_that_is_not_there_cannot_be_changed(world: World) -> None:
    with pytest.raises(NotFound):
        await tenants.update_tenant(world.context, "tenants/x", "", {"display_name": "x", "serving_weight": 0.0}, ())


async def test_pages_hold_everything_once_and_tokens_fit_one_list(world: World, base: BaseModel) -> None:
    for number in range(5):
        await datasets.create_dataset(world.context, "tenants/acme", f"d{number}", "", RequestKey())
    seen: list[str] = []
    token = ""
    while True:
        page = await datasets.list_datasets(world.context, "tenants/acme", PageQuery(2, token))
        seen += [item.dataset_id for item in page.items]
        if not page.next_page_token:
            break
        token = page.next_page_token
    assert seen == [f"d{number}" for number in range(5)]
    for parent, wrong in (("tenants/globex", token), ("tenants/acme", token[:-2] + "xx"), ("tenants/acme", "no!")):
        with pytest.raises(InvalidArgument) as caught:
            await datasets.list_datasets(world.context, parent, PageQuery(2, wrong))
        assert caught.value.reason == Reason.INVALID_PAGE_TOKEN
    with pytest.raises(InvalidArgument):
        await datasets.list_datasets(world.context, "tenants/acme", PageQuery(-1))
    with pytest.raises(NotFound):
        await datasets.list_datasets(world.context, "tenants/nobody", PageQuery())


async def test_a_tenant_goes_with_all_it_has_only_by_force(world: World, base: BaseModel) -> None:
    await upload(world.context, "acme")
    with pytest.raises(FailedPrecondition, match="datasets"):
        await tenants.delete_tenant(world.context, "tenants/acme", "", force=False)
    with pytest.raises(TrellisError) as caught:
        await tenants.delete_tenant(world.context, "tenants/acme", "stale", force=True)
    assert caught.value.reason == Reason.ETAG_MISMATCH
    await tenants.delete_tenant(world.context, "tenants/acme", "", force=True)
    assert not keys(world.store)
    with pytest.raises(NotFound):
        await tenants.get_tenant(world.context, "tenants/acme")
