"""The loops over a real database, with a cluster, engines and a clock that the test moves."""

from pathlib import Path

import pytest
from tests.contract.control.platform import Platform

from trellis.server.app.ports import UnitOfWorkFactory


@pytest.fixture
async def platform(units: UnitOfWorkFactory, tmp_path: Path) -> Platform:
    """One tenant with a dataset that was found valid; room for two jobs."""
    made = Platform(units, tmp_path / "objects")
    await made.prepare()
    return made
