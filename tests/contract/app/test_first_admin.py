"""The first admin's key, where somebody else made it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server_fakes import World, make_world

from trellis.errors import Unauthenticated
from trellis.server.app.authentication import authenticate
from trellis.server.app.context import AppSettings
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.config import ConfigError
from trellis.server.domain.caller import Role
from trellis.server.first_start import use_admin_key

SECRET = "trk_" + "a" * 40


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = written(tmp_path / "admin-key", SECRET + "\n")
    path.chmod(0o400)
    return path


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


async def test_it_opens_what_an_admin_may(world: World, given: Path) -> None:
    await use_admin_key(world.context, given)
    caller = await authenticate(world.context, f"Bearer {SECRET}")
    assert (caller.role, caller.tenant) == (Role.ADMIN, None)


async def test_two_servers_take_it_once(
    world: World, other_units: UnitOfWorkFactory, given: Path, tmp_path: Path
) -> None:
    second = make_world(other_units, tmp_path, AppSettings())
    await asyncio.gather(use_admin_key(world.context, given), use_admin_key(second.context, given))
    await use_admin_key(second.context, given)
    async with world.context.units(write=False) as unit:
        assert len((await unit.api_keys.list(None, 100, None)).items) == 1


async def test_another_secret_opens_nothing_while_there_is_an_admin(world: World, given: Path) -> None:
    await use_admin_key(world.context, given)
    await use_admin_key(world.context, written(given.with_name("later"), "trk_" + "b" * 40))
    with pytest.raises(Unauthenticated, match="unknown"):
        await authenticate(world.context, "Bearer trk_" + "b" * 40)


async def test_a_revoked_key_stays_revoked_and_a_new_one_is_taken(world: World, given: Path) -> None:
    await use_admin_key(world.context, given)
    async with world.context.units() as unit:
        (key,) = (await unit.api_keys.list(None, 100, None)).items
        await unit.api_keys.save(replace(key, revoke_time=world.context.now()))
        await unit.commit()
    await use_admin_key(world.context, given)
    with pytest.raises(Unauthenticated, match="revoked"):
        await authenticate(world.context, f"Bearer {SECRET}")
    await use_admin_key(world.context, written(given.with_name("new"), "trk_" + "c" * 40))
    assert (await authenticate(world.context, "Bearer trk_" + "c" * 40)).role is Role.ADMIN


@pytest.mark.parametrize("content", ["", "secret", "trk_short", "tra_" + "a" * 40, "trk_" + "a" * 40 + " and more"])
async def test_what_can_not_be_a_key_is_refused(world: World, tmp_path: Path, content: str) -> None:
    path = written(tmp_path / "key", content)
    with pytest.raises(ConfigError, match=r"TRELLIS_FIRST_ADMIN_KEY_FILE must hold trk_"):
        await use_admin_key(world.context, path)
