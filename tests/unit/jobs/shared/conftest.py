"""A trainer's world, with a bank that is made quickly."""

from pathlib import Path

import pytest
from tests.shared_trainer_rig import World, make_world


@pytest.fixture
def world(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("TRELLIS_TRAINER_RANK_ROWS", "64")
    return make_world(base_folder, tmp_path / "store")
