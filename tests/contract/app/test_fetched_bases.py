"""Base models whose files are still on their way."""

import shutil
from pathlib import Path

import pytest
from tests.server_fakes import TINY, World

from trellis.base_cache.cache import entry_of
from trellis.base_cache.fetch import fetch
from trellis.base_cache.part import Part
from trellis.errors import Reason, Unavailable
from trellis.server.app.base_models import NewBaseModel, create_base_model
from trellis.server.app.idempotency import RequestKey
from trellis.server.configured_bases import ConfiguredBases

SOURCE = "s3://bases/tiny"


def arrive(cache: Path) -> None:
    """As a fetch from the bucket would leave it."""
    got = fetch(str(TINY), "", cache)
    manifest = got.path / "trellis-base.manifest"
    manifest.write_text(manifest.read_text().replace(f'"{TINY.resolve()}"', f'"{SOURCE}"'))
    shutil.rmtree(entry_of(SOURCE, cache))
    got.path.parent.rename(entry_of(SOURCE, cache))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("TRELLIS_BASE_CACHE", str(cache))
    entry_of(SOURCE, cache).mkdir(parents=True)
    Part.take(entry_of(SOURCE, cache), "key", "one").say_progress(41 << 30, 141 << 30)
    return cache


async def test_a_base_that_is_being_fetched_is_worth_asking_for_again(world: World, cache: Path) -> None:
    with pytest.raises(Unavailable, match="41 of 141 GiB are here: it is being fetched") as caught:
        await create_base_model(world.context, NewBaseModel("late", "", SOURCE), RequestKey())
    assert (caught.value.reason, caught.value.retry_after) == (Reason.BASE_MODEL_UNAVAILABLE, 10.0)
    arrive(cache)
    made = await create_base_model(world.context, NewBaseModel("late", "", SOURCE), RequestKey())
    assert (made.source, made.revision[:7]) == (SOURCE, "sha256:")


async def test_a_server_registers_its_bases_when_they_have_come(world: World, cache: Path) -> None:
    bases = ConfiguredBases(world.context, (("late", SOURCE), ("here", str(TINY)), ("never", "acme/none")))
    await bases.register()
    assert [name for name, _ in bases.late] == ["late", "never"]
    async with world.context.units(write=False) as unit:
        default = await unit.base_models.default()
    assert default is not None
    assert default.base_model_id == "here"
    assert not await bases.once()
    arrive(cache)
    await bases.once()
    assert [name for name, _ in bases.late] == ["never"]
    async with world.context.units(write=False) as unit:
        default, late = await unit.base_models.default(), await unit.base_models.get("late")
    assert late is not None
    assert default == late  # it is the first of the setting
    again = ConfiguredBases(world.context, (("late", SOURCE),))
    await again.register()
    assert again.late == ()
