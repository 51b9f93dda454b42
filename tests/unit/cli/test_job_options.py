"""How a job is to be trained, on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fake_server import FakeServer
from tests.unit.cli.conftest import Ran

Run = Callable[..., Ran]
JOB = "tenants/acme/tuningJobs/a"


def test_every_method_has_its_options(trellis: Run, tmp_path: Path) -> None:
    def made(*options: str) -> dict[str, Any]:
        found: dict[str, Any] = trellis("jobs", "create", "--dataset", "pairs", *options, "--format", "json").json
        return found

    dpo = made("--method", "dpo", "--beta", "0.2", "--reference-free", "--epochs", "2", "--replay-dataset", "general")
    assert (dpo["supervised"], dpo["preference"]["loss"], dpo["preference"]["beta"]) == (None, "DPO", 0.2)
    assert (dpo["preference"]["reference_free"], dpo["preference"]["training"]["epochs"]) == (True, 2)
    assert dpo["replay_dataset"].endswith("/datasets/general")
    assert made("--method", "orpo")["preference"]["loss"] == "ORPO"
    text = made("--method", "pretraining", "--full", "--workers", "2", "--zero-stage", "3", "--offload", "all")
    assert text["pretraining"]["training"]["full"] is True
    assert (text["distributed"]["workers"], text["distributed"]["zero_stage"]) == (2, 3)
    assert (text["distributed"]["offload"], text["distributed"]["gradient_checkpointing"]) == ("ALL", None)
    config = tmp_path / "ds.json"
    config.write_text("{}")
    spread = made("--no-gradient-checkpointing", "--deepspeed-config", str(config), "--from-adapter", "support")
    assert (spread["distributed"]["gradient_checkpointing"], spread["distributed"]["config_json"]) == (False, "{}")
    assert spread["initial_adapter"].endswith("/aliases/support")
    assert made("--from-adapter", "a" * 24)["initial_adapter"].endswith("/adapters/" + "a" * 24)
    assert made()["distributed"] is None
    wrong = trellis("jobs", "create", "--dataset", "pairs", "--beta", "0.2")
    assert (wrong.code, "--beta" in wrong.err) == (2, True)


def test_a_job_shows_what_rules_chose(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    server.jobs.jobs[JOB].resolved_settings.add(field="supervised.epochs", value="5", rule="Few lines.")
    shown = trellis("jobs", "get", "a").out.splitlines()
    assert shown[-2].split() == ["CHOSEN", "VALUE", "RULE"]
    assert shown[-1].split() == ["supervised.epochs", "5", "Few", "lines."]
    one = trellis("jobs", "get", "a", "--format", "json").json["resolved_settings"]
    assert one == [{"field": "supervised.epochs", "value": "5", "rule": "Few lines."}]
