"""Keys that are narrowed, rotated and used."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.server_fakes import ADMIN, World

from trellis.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Reason, Unauthenticated
from trellis.server.app.api_key_rotation import MAX_OVERLAP, Rotation, rotate_api_key
from trellis.server.app.api_keys import NewApiKey, create_api_key, get_api_key, revoke_api_key
from trellis.server.app.authentication import authenticate
from trellis.server.app.key_uses import COARSENESS
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import ApiKey, Caller, Role, Scope

HOUR = timedelta(hours=1)


async def make(world: World, *scopes: Scope, role: Role = Role.MEMBER, **changes: object) -> tuple[ApiKey, str]:
    new = NewApiKey("tenants/acme", "", role, None, frozenset(scopes))
    return await create_api_key(world.context, ADMIN, replace(new, **changes))  # type: ignore[arg-type]


async def known(world: World, secret: str) -> Caller:
    return await authenticate(world.context, f"Bearer {secret}")


async def refused(world: World, secret: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await known(world, secret)
    return caught.value.reason


async def test_a_key_brings_its_scopes_and_its_name(world: World, base: BaseModel) -> None:
    key, secret = await make(world, Scope.READ, Scope.GENERATE)
    caller = await known(world, secret)
    assert caller.scopes == {Scope.READ, Scope.GENERATE}
    assert caller.principal == key.name == f"tenants/acme/apiKeys/{key.key_id}"
    assert await get_api_key(world.context, key.name) == key
    assert [scope for scope in Scope if caller.has_scope(scope)] == [Scope.READ, Scope.GENERATE]
    assert (await known(world, (await make(world))[1])).has_scope(Scope.MANAGE)


@pytest.mark.parametrize(
    ("mine", "wanted", "allowed"),
    [
        ((), (), True),
        ((), (Scope.READ,), True),
        ((Scope.MANAGE,), (Scope.MANAGE,), True),
        ((Scope.MANAGE, Scope.READ), (Scope.READ,), True),
        ((Scope.MANAGE,), (Scope.READ,), False),
        ((Scope.MANAGE,), (Scope.MANAGE, Scope.READ), False),
        ((Scope.MANAGE,), (), False),
    ],
)
async def test_nobody_gives_a_key_more_than_they_have(
    world: World, base: BaseModel, mine: tuple[Scope, ...], wanted: tuple[Scope, ...], allowed: bool
) -> None:
    caller = Caller(Role.TENANT_ADMIN, "acme", "k", scopes=frozenset(mine))
    new = NewApiKey("tenants/acme", "", Role.MEMBER, None, frozenset(wanted))
    key, secret = await make(world, *wanted)
    for deed in (create_api_key(world.context, caller, new), rotate_api_key(world.context, caller, Rotation(key.name))):
        if allowed:
            made, _ = await deed
            assert made.scopes == frozenset(wanted)
        else:
            with pytest.raises(PermissionDenied, match="narrowed to"):
                await deed
    if not allowed:
        await known(world, secret)  # what was refused has changed nothing


async def test_nobody_rotates_a_key_above_their_own(world: World, base: BaseModel) -> None:
    key, _ = await make(world, role=Role.TENANT_ADMIN)
    with pytest.raises(PermissionDenied, match="TENANT_ADMIN"):
        await rotate_api_key(world.context, Caller(Role.MEMBER, "acme", "k"), Rotation(key.name))


async def test_both_secrets_open_until_the_overlap_is_over(world: World, base: BaseModel) -> None:
    key, old = await make(world, Scope.READ)
    rotated, new = await rotate_api_key(world.context, ADMIN, Rotation(key.name, HOUR))
    assert (rotated.name, rotated.scopes, rotated.rotate_time) == (key.name, key.scopes, world.clock.now())
    assert rotated.old_secret_expire_time == world.clock.now() + HOUR
    assert new.startswith(rotated.prefix)
    assert (await known(world, old)) == (await known(world, new))
    world.clock.advance(3600)
    await known(world, new)
    assert await refused(world, old) == Reason.API_KEY_EXPIRED


async def test_what_two_do_to_a_key_at_once_is_done_one_after_the_other(world: World, base: BaseModel) -> None:
    for _ in range(5):
        key, _ = await make(world)
        rotated = await asyncio.gather(
            rotate_api_key(world.context, ADMIN, Rotation(key.name, HOUR)),
            rotate_api_key(world.context, ADMIN, Rotation(key.name, HOUR)),
        )
        for _, secret in rotated:  # neither was lost: one is the secret before the other
            await known(world, secret)
        await asyncio.gather(
            revoke_api_key(world.context, key.name),
            rotate_api_key(world.context, ADMIN, Rotation(key.name, HOUR)),
            return_exceptions=True,
        )
        assert (await get_api_key(world.context, key.name)).revoke_time is not None


async def test_without_an_overlap_the_old_secret_is_dead_at_once(world: World, base: BaseModel) -> None:
    key, old = await make(world)
    _, second = await rotate_api_key(world.context, ADMIN, Rotation(key.name))
    assert await refused(world, old) == Reason.API_KEY_EXPIRED
    _, third = await rotate_api_key(world.context, ADMIN, Rotation(key.name, HOUR))
    await known(world, second)
    await known(world, third)
    assert await refused(world, old) == Reason.API_KEY_INVALID
    await revoke_api_key(world.context, key.name)
    for secret in (second, third):
        assert await refused(world, secret) == Reason.API_KEY_REVOKED


async def test_a_rotation_may_set_a_new_end(world: World, base: BaseModel) -> None:
    key, _ = await make(world, expire_time=world.clock.now() + HOUR)
    rotated, secret = await rotate_api_key(world.context, ADMIN, Rotation(key.name, HOUR, world.clock.now() + 2 * HOUR))
    assert rotated.expire_time == world.clock.now() + 2 * HOUR
    kept, _ = await rotate_api_key(world.context, ADMIN, Rotation(key.name))
    assert kept.expire_time == rotated.expire_time
    world.clock.advance(7200)
    assert await refused(world, secret) == Reason.API_KEY_EXPIRED
    with pytest.raises(FailedPrecondition, match="expired at"):
        await rotate_api_key(world.context, ADMIN, Rotation(key.name))


async def test_what_a_rotation_cannot_be_asked(world: World, base: BaseModel) -> None:
    key, _ = await make(world)
    wrong = Rotation(key.name, MAX_OVERLAP + timedelta(seconds=1), world.clock.now())
    with pytest.raises(InvalidArgument) as caught:
        await rotate_api_key(world.context, ADMIN, wrong)
    assert [violation.field for violation in caught.value.violations] == ["overlap", "expire_time"]
    with pytest.raises(InvalidArgument):
        await rotate_api_key(world.context, ADMIN, Rotation(key.name, timedelta(seconds=-1)))
    await revoke_api_key(world.context, key.name)
    with pytest.raises(FailedPrecondition, match="revoked at"):
        await rotate_api_key(world.context, ADMIN, Rotation(key.name))


async def test_a_call_costs_one_query_and_a_second_one_for_the_secret_before(
    world: World, base: BaseModel, engine: AsyncEngine
) -> None:
    key, old = await make(world)
    _, new = await rotate_api_key(world.context, ADMIN, Rotation(key.name, HOUR))
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    for secret, queries in ((new, 1), (old, 2)):
        asked.clear()
        await known(world, secret)
        assert len([statement for statement in asked if "api_keys" in statement]) == queries


async def test_uses_are_written_later_and_not_each_of_them(world: World, base: BaseModel) -> None:
    key, secret = await make(world)
    uses, begun = world.context.key_uses, world.clock.now()

    async def written() -> int:
        return await uses.write(world.context.units)

    await known(world, secret)
    assert (await get_api_key(world.context, key.name)).last_use_time is None
    assert await written() == 1
    assert (await get_api_key(world.context, key.name)).last_use_time == begun
    world.clock.advance(COARSENESS.total_seconds() - 1)
    await known(world, secret)
    assert await written() == 0
    world.clock.advance(1)
    await known(world, secret)
    await revoke_api_key(world.context, key.name)
    assert await written() == 1
    found = await get_api_key(world.context, key.name)
    assert (found.last_use_time, found.revoke_time) == (begun + COARSENESS, world.clock.now())


async def test_uses_that_cannot_be_written_are_kept(world: World, base: BaseModel) -> None:
    key, secret = await make(world)
    await known(world, secret)

    def broken(*, write: bool = True) -> object:
        raise ConnectionError("no database")

    with pytest.raises(ConnectionError):
        await world.context.key_uses.write(broken)  # type: ignore[arg-type]
    assert await world.context.key_uses.write(world.context.units) == 1
    assert (await get_api_key(world.context, key.name)).last_use_time == world.clock.now()
