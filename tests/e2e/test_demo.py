"""The demonstration, as `make demo` runs it."""

import json
import tempfile
from pathlib import Path

from tests.e2e.platform import Platform

from trellis.local.layout import DataDir
from trellis.local.processes import marked_pids


def test_the_demonstration_shows_that_tuning_helps() -> None:
    with tempfile.TemporaryDirectory(prefix="trellis-e2e-") as folder:
        done = Platform(Path(folder)).cli("demo", "--data-dir", "demo", "--summary", "summary.json")
        summary = json.loads((Path(folder) / "summary.json").read_text())
        assert not marked_pids(DataDir(Path(folder) / "demo").marker)
    assert set(summary) == {"tenants", "seconds"}
    assert set(summary["tenants"]) == {"acme", "globex"}
    for found in summary["tenants"].values():
        assert set(found) == {
            "task", "lines", "held_out_lines", "base", "tuned", "base_loss", "tuned_loss", "seconds",
        }  # fmt: skip
        assert found["tuned"] > found["base"]
        assert found["tuned_loss"] < found["base_loss"]
        assert 0 < found["seconds"] < summary["seconds"]
    assert "refused" in done.stdout
