"""The demonstration, as `make demo` runs it."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.platform import Platform

from trellis.local.processes import marked_pids


@pytest.fixture
def place() -> Iterator[Platform]:
    """A folder in which nothing runs, and nothing is left running."""
    with tempfile.TemporaryDirectory(prefix="trellis-e2e-") as folder:
        found = Platform(Path(folder))
        try:
            yield found
        finally:
            found.sweep()


def test_the_demonstration_shows_that_tuning_helps(place: Platform) -> None:
    done = place.cli("demo", "--data-dir", "data", "--summary", "summary.json")
    assert not marked_pids(place.data.marker)
    assert "refused" in done.stdout
    summary = json.loads((place.folder / "summary.json").read_text())
    assert set(summary) == {"tenants", "seconds"}
    assert set(summary["tenants"]) == {"acme", "globex"}
    columns = {"task", "lines", "held_out_lines", "base", "tuned", "base_loss", "tuned_loss", "seconds"}
    for found in summary["tenants"].values():
        assert set(found) == columns
        assert found["tuned"] > found["base"]
        assert found["tuned_loss"] < found["base_loss"]
        assert 0 < found["seconds"] < summary["seconds"]
