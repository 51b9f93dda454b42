"""The first admin's key in a file: whoever dies or starts meanwhile, the file's key opens."""

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.server_fakes import World, make_world

from trellis.server.app.authentication import authenticate, create_first_admin_key
from trellis.server.app.context import AppSettings
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.caller import Role
from trellis.server.first_start import ensure_admin_key
from trellis.server.world import RandomIds


def key_in(path: Path) -> str:
    """The file's, which is the only one there is of its name."""
    assert [found.name for found in path.parent.glob(f"{path.name}*")] == [path.name]
    return path.read_text().strip()


async def opens(world: World, secret: str) -> bool:
    caller = await authenticate(world.context, f"Bearer {secret}")
    return caller.role is Role.ADMIN


async def test_servers_that_start_at_once_make_one_key(
    world: World, other_units: UnitOfWorkFactory, tmp_path: Path
) -> None:
    second, path = make_world(other_units, tmp_path, AppSettings()), tmp_path / "admin.key"
    contexts = [replace(each.context, ids=RandomIds()) for each in (world, second, world, second)]
    await asyncio.gather(*(ensure_admin_key(context, path) for context in contexts))
    assert await opens(world, key_in(path))
    async with world.context.units(write=False) as unit:
        assert len((await unit.api_keys.list(None, 100, None)).items) == 1


async def test_a_key_of_a_server_that_died_before_it_named_its_file_is_found(world: World, tmp_path: Path) -> None:
    path, draft = tmp_path / "admin.key", tmp_path / "admin.key.new"
    secret = "trk_" + "d" * 40
    draft.write_text(secret + "\n")
    await create_first_admin_key(world.context, secret)
    await ensure_admin_key(world.context, path)
    assert key_in(path) == secret


async def test_a_draft_that_opens_nothing_goes_and_another_key_is_made(world: World, tmp_path: Path) -> None:
    path, draft = tmp_path / "admin.key", tmp_path / "admin.key.new"
    draft.write_text("trk_" + "e" * 40)
    await ensure_admin_key(world.context, path)
    assert await opens(world, key_in(path))


async def test_a_key_that_is_there_stays(world: World, tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    await ensure_admin_key(world.context, path)
    before = path.read_text()
    await ensure_admin_key(world.context, path)
    assert path.read_text() == before
