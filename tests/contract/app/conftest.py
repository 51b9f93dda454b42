"""The use cases over a real database."""

from pathlib import Path

import pytest
from tests.server_fakes import World, make_world, prepare

from trellis.server.app.context import AppSettings
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.base_model import BaseModel


@pytest.fixture
def world(units: UnitOfWorkFactory, tmp_path: Path) -> World:
    return make_world(units, tmp_path, AppSettings(upload_part_bytes=512, max_upload_bytes=1 << 20))


@pytest.fixture
async def base(world: World) -> BaseModel:
    return await prepare(world.context, "acme", "globex")
