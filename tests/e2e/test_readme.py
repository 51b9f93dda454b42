"""The README's walk through the commands, word for word, and what commands promise to programs."""

import json
from pathlib import Path

import pytest
import torch
from tests.e2e import lines
from tests.e2e.platform import Platform
from tests.e2e.readme import cli_lines, export_lines, sharing_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

import trellis

BASE = Path(trellis.__file__).parent / "base_models" / "trellis-tiny"
LISTS = (
    ("tenants", "list"),
    ("keys", "list"),
    ("base-models", "list"),
    ("datasets", "list"),
    ("datasets", "versions", "support"),
    ("jobs", "list"),
    ("adapters", "list"),
    ("adapters", "alias", "list"),
)


@pytest.fixture(scope="module")
def walked(platform: Platform) -> str:
    """What the walk printed, between `up` and `down`, which hold for all of these tests."""
    (platform.folder / "support.jsonl").write_bytes(lines.chat_lines(("on its way", "not here yet")))
    walk = cli_lines()
    assert walk[0] == ". .venv/bin/activate"
    assert walk[1].startswith("trellis up")
    assert walk[-1].startswith("trellis down")
    return platform.shell("\n".join(walk[2:-1])).stdout


@pytest.fixture(scope="module")
def acme(platform: Platform, walked: str) -> dict[str, str]:
    """The variables that the walk has set."""
    return {"TRELLIS_API_KEY": platform.admin_key, "TRELLIS_TENANT": "acme"}


def test_the_walk_comes_to_its_end(walked: str) -> None:
    assert "tenants/acme/datasets/support/versions/" in walked
    assert "SUCCEEDED" in walked
    adapters = json.loads(walked[walked.index("\n[") :])
    assert [adapter["deployment"] for adapter in adapters] == ["DEPLOYED"]
    assert adapters[0]["name"].startswith("tenants/acme/adapters/")


def test_teams_share_as_the_readme_says(platform: Platform, acme: dict[str, str]) -> None:
    *lines_, last = sharing_lines()
    assert last == "trellis admin verify-isolation"  # test_isolation.py runs it
    said = platform.shell("\n".join(lines_), **acme).stdout
    assert "open_jobs" in said
    assert "tenants/acme/tuningJobs/next" in said
    assert "trained tokens" in said
    assert "/trellis.v1.TuningJobService/CreateTuningJob" in said


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_lists_are_json_for_programs(platform: Platform, acme: dict[str, str], command: tuple[str, ...]) -> None:
    found = json.loads(platform.cli(*command, "--format", "json", **acme).stdout)
    assert isinstance(found, list)
    if command != ("keys", "list"):
        assert all(item["name"] for item in found)
        assert found


def test_a_job_is_json_for_programs(platform: Platform, acme: dict[str, str], tmp_path: Path) -> None:
    def ask(*command: str) -> str:
        return platform.cli(*command, "--format", "json", **acme).stdout

    *_, job = json.loads(ask("jobs", "list"))  # the oldest is the walk's
    assert json.loads(ask("jobs", "get", job["name"]))["state"] == "SUCCEEDED"
    events = [json.loads(line) for line in ask("jobs", "watch", job["name"]).splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    points = json.loads(ask("jobs", "metrics", job["name"]))
    assert points[-1]["step"] == job["progress"]["total_steps"]
    log = "".join(json.loads(line)["text"] for line in ask("jobs", "logs", job["name"]).splitlines())
    assert f"Step {points[-1]['step']} of {points[-1]['step']}: loss" in log
    assert json.loads(ask("jobs", "checkpoints", job["name"]))[-1]["attempt"] == 1
    assert json.loads(ask("datasets", "report", "support"))["valid"]
    chunks = [json.loads(line) for line in ask("generate", "-m", "support", "--temperature", "0", "hi").splitlines()]
    assert chunks[-1]["finish_reason"] in {"STOP", "LENGTH"}
    files = json.loads(ask("adapters", "download", "support", "-o", str(tmp_path)))["files"]
    assert sorted(Path(file).name for file in files) == sorted(path.name for path in tmp_path.iterdir())


def test_a_tuned_model_is_taken_away(platform: Platform, acme: dict[str, str]) -> None:
    platform.shell("\n".join(export_lines()), **acme)
    folder = platform.folder / "support-merged"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["tuning_job"].startswith("tenants/acme/tuningJobs/")
    assert manifest["metrics"]["changed_share"] > 0
    merged, base = (AutoModelForCausalLM.from_pretrained(one) for one in (folder, BASE))
    inputs = AutoTokenizer.from_pretrained(folder)("Where is my parcel?", return_tensors="pt")
    with torch.no_grad():
        change = merged(**inputs).logits - base(**inputs).logits
    assert bool(change.isfinite().all())
    assert float(change.abs().max()) > 0
    (export,) = json.loads(platform.cli("exports", "list", "--format", "json", **acme).stdout)
    assert export["state"] == "SUCCEEDED"
    assert platform.cli("exports", "delete", export["name"], **acme).returncode == 0


def test_exit_codes(platform: Platform, acme: dict[str, str]) -> None:
    missing = platform.cli("jobs", "get", "no-such-job", "--format", "json", check=False, **acme)
    assert missing.returncode == 1
    assert json.loads(missing.stderr)["error"]["reason"] == "RESOURCE_NOT_FOUND"
    assert missing.stdout == ""
    assert platform.cli("jobs", "paint", check=False, **acme).returncode == 2
    assert platform.cli("jobs", "create", check=False, **acme).returncode == 2
    unknown = platform.cli("datasets", "list", check=False, TRELLIS_API_KEY="trk_" + "0" * 40, TRELLIS_TENANT="acme")
    assert unknown.returncode == 1
    assert "API_KEY_INVALID" in unknown.stderr


def test_up_and_status_know_what_runs(platform: Platform) -> None:
    status = platform.status()
    assert status["state"] == "SERVING"
    assert status["endpoint"] == platform.endpoint
    again = platform.shell(platform.up_line(), check=False)
    assert again.returncode == 1
    assert "already runs" in again.stderr
    nothing = platform.cli("status", "--data-dir", "elsewhere", "--format", "json", check=False)
    assert nothing.returncode == 1
    assert json.loads(nothing.stdout)["state"] == "DOWN"
    assert platform.cli("down", "--data-dir", "elsewhere").returncode == 0
    assert platform.data.admin_key.stat().st_mode & 0o777 == 0o600
