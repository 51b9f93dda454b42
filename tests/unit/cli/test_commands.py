"""Each command, as a table and as JSON."""

import io
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fake_server import FakeServer
from tests.unit.cli.conftest import Ran

from trellis.v1 import dataset_pb2
from trellis.v1.trainer_pb2 import Trainer, TrainerRoom

Run = Callable[..., Ran]
LINE = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'
JOB = "tenants/acme/tuningJobs/a"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "support.jsonl"
    path.write_text(LINE * 3)
    return path


def test_tenants(trellis: Run) -> None:
    made = trellis("tenants", "create", "acme", "--display-name", "Acme", "--format", "json")
    nothing = {
        "accelerators": None, "borrowing_limit": None, "lending_limit": None, "running_jobs": None, "open_jobs": None,
        "dataset_bytes": None, "artifact_bytes": None, "deployed_adapters": None, "requests_per_minute": None,
        "tokens_per_minute": None, "max_priority": None, "budgets": [],
    }  # fmt: skip
    assert made.json == {
        "name": "tenants/acme", "display_name": "Acme", "create_time": "2026-01-02T03:04:05Z", "etag": "1",
        "serving_weight": 1.0, "training_weight": 1.0, "cohort": "", "quota": nothing,
    }  # fmt: skip
    assert trellis("--format", "json", "tenants", "list").json == [made.json]
    assert trellis("tenants", "--format", "json", "get", "acme").json == made.json
    listed = trellis("tenants", "list").out.splitlines()
    assert listed[0].split()[:8] == ["NAME", "DISPLAY", "NAME", "SERVING", "WEIGHT", "TRAINING", "WEIGHT", "COHORT"]
    assert listed[1].startswith("tenants/acme   Acme")
    assert "name" in trellis("tenants", "get", "acme").out
    changed = trellis("tenants", "update", "acme", "--serving-weight", "2", "--format", "json").json
    assert (changed["display_name"], changed["serving_weight"]) == ("Acme", 2.0)
    assert trellis("tenants", "update", "acme").code == 2
    assert trellis("tenants", "delete", "acme", "--format", "json").json == {"deleted": "acme"}
    assert trellis("tenants", "list", "--format=json").json == []


def test_deleting_a_tenant_with_all_it_has_is_asked_about(trellis: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    trellis("tenants", "create", "acme")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert trellis("tenants", "delete", "acme", "--force").code == 130
    assert trellis("tenants", "delete", "acme", "--force", "--yes").code == 0


def test_keys(trellis: Run, tmp_path: Path) -> None:
    made = trellis("keys", "create", "--role", "tenant-admin", "--expires-in", "30d", "--format", "json").json
    assert made["secret"] == "tr_abcdef"
    assert (made["api_key"]["role"], made["api_key"]["name"]) == ("TENANT_ADMIN", "tenants/acme/apiKeys/k0")
    assert made["api_key"]["expire_time"].endswith("Z")
    secret = tmp_path / "secret"
    shown = trellis("keys", "create", "--platform", "--secret-file", str(secret))
    assert "tr_abcdef" not in shown.out + shown.err
    assert (secret.read_text(), stat.S_IMODE(secret.stat().st_mode)) == ("tr_abcdef\n", 0o600)
    assert trellis("keys", "create", "--secret-file", str(secret)).code == 2
    assert "tr_abcdef" in trellis("keys", "create").out
    assert trellis("keys", "list", "--platform", "--format", "json").json[0]["name"] == "platform/apiKeys/k1"
    assert "TENANT_ADMIN" in trellis("keys", "list").out
    assert trellis("keys", "get", "k0", "--format", "json").json["revoke_time"] is None
    narrow = trellis(
        "keys", "create", "--scope", "generate", "--scope", "read", "--expires", "90d", "--format", "json"
    ).json["api_key"]
    assert (narrow["scopes"], narrow["expire_time"][-1]) == (["GENERATE", "READ"], "Z")
    assert trellis("keys", "create", "--scope", "everything").code == 2
    rotated = trellis("keys", "rotate", "k0", "--overlap", "24h", "--format", "json").json
    assert rotated["secret"] == "tr_newsecret"
    assert rotated["api_key"]["old_secret_expire_time"] > rotated["api_key"]["rotate_time"]
    fresh = tmp_path / "fresh"
    assert "tr_newsecret" not in trellis("keys", "rotate", "k0", "--secret-file", str(fresh)).out
    assert fresh.read_text() == "tr_newsecret\n"
    assert "tr_newsecret" in trellis("keys", "rotate", "k0").out
    assert trellis("keys", "revoke", "k0", "--format", "json").json["revoke_time"]
    assert trellis("keys", "create", "--expires-in", "soon").code == 2


def test_trainers(trellis: Run, server: FakeServer) -> None:
    assert trellis("trainers", "list", "--format", "json").json == []
    room = TrainerRoom(jobs=14, rank_rows=224, line_tokens=4096)
    server.trainers.trainers = [
        Trainer(
            name="trainers/trainer-1",
            base_model="baseModels/tiny",
            precision="auto",
            state=Trainer.STATE_RUNNING,
            jobs=2,
            room=room,
            tokens_per_second=812.5,
            workers=1,
            cpus=1,
            hostname="node-1",
        ),
        Trainer(name="trainers/trainer-2", base_model="baseModels/large", state=Trainer.STATE_STARTING),
    ]
    first, second = trellis("trainers", "list", "--format", "json").json
    assert (first["name"], first["state"], first["jobs"]) == ("trainers/trainer-1", "RUNNING", 2)
    assert first["room"] == {"jobs": 14, "rank_rows": 224, "line_tokens": 4096}
    assert first["tokens_per_second"] == 812.5
    assert (second["state"], second["room"]) == ("STARTING", None)
    shown = trellis("trainers", "list").out.splitlines()
    assert shown[0].split()[:4] == ["NAME", "BASE", "MODEL", "PRECISION"]
    assert shown[1].split()[:5] == ["trainers/trainer-1", "baseModels/tiny", "auto", "RUNNING", "2"]


def test_base_models(trellis: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    made = trellis("base-models", "register", "tiny", "--path", "tiny", "--default", "--format", "json").json
    assert (made["source"], made["is_default"]) == (str(tmp_path / "tiny"), True)
    hub = trellis("base-models", "register", "hub", "--path", "org/model", "--format", "json").json
    assert hub["source"] == "org/model"
    assert "baseModels/tiny" in trellis("base-models", "list").out
    assert trellis("base-models", "list", "--format", "json").json == [made, hub]
    assert trellis("base-models", "get", "tiny", "--format", "json").json == made
    assert trellis("base-models", "delete", "tiny").err == "Deleted tiny.\n"


def test_datasets(trellis: Run, file: Path, tmp_path: Path) -> None:
    sent = trellis("datasets", "upload", str(file), "--dataset", "support", "--format", "json")
    assert (sent.code, sent.json["state"], sent.json["size_bytes"]) == (0, "READY", len(LINE) * 3)
    assert trellis("datasets", "get", "support", "--format", "json").json["latest_version"] == sent.json["name"]
    assert trellis("datasets", "get", f"support@{sent.json['sha256']}", "--format", "json").json == sent.json
    assert trellis("datasets", "versions", "support", "--format", "json").json == [sent.json]
    assert sent.json["sha256"] in trellis("datasets", "versions", "support").out
    assert "tenants/acme/datasets/support" in trellis("datasets", "list").out
    target = tmp_path / "copy.jsonl"
    assert trellis("datasets", "download", "support", "-o", str(target)).code == 0
    assert target.read_text() == LINE * 3
    assert trellis("datasets", "create", "empty", "--format", "json").json["name"] == "tenants/acme/datasets/empty"
    assert trellis("datasets", "delete", "empty", "--format", "json").json == {"deleted": "empty"}


def bad_report() -> dataset_pb2.DatasetReport:
    report = dataset_pb2.DatasetReport(state=2, valid=False, summary="1 error in 3 lines.", error_count=3, line_count=3)
    report.errors.add(
        line=2, path="$.messages[0].role", code="unrecognized_role", message="No \x1b[31mking.", hint="Fix."
    )
    report.error_counts.add(code="unrecognized_role", count=3)
    preview = report.previews.add(line=1)
    preview.segments.add(text="<user>Hi\n", trained=False)
    preview.segments.add(text="Hello", trained=True)
    report.duplicate_line_count, report.cut_line_count = 1, 1
    report.duplicate_lines.append(3)
    return report


def test_a_report_shows_every_error_and_what_is_trained_on(trellis: Run, server: FakeServer, file: Path) -> None:
    server.datasets.report = bad_report()
    sent = trellis("datasets", "upload", str(file), "--dataset", "support")
    assert sent.code == 1
    assert "trellis datasets report tenants/acme/datasets/support/versions/" in sent.err
    report = trellis("datasets", "report", "support")
    assert report.code == 1
    assert "1 error in 3 lines." in report.out
    assert "2      $.messages[0].role   unrecognized_role   No \\x1b[31mking.   Fix." in report.out
    assert "and 2 more" in report.err + report.out
    assert "<user>Hi\n[[Hello]]" in report.out
    found = trellis("datasets", "report", "support", "--format", "json")
    assert (found.code, found.json["errors"][0]["code"]) == (1, "unrecognized_role")
    assert found.json["previews"][0]["segments"][1] == {"text": "Hello", "trained": True}
    server.datasets.report.valid = True
    assert trellis("datasets", "report", "support").code == 0


def test_a_file_is_checked_without_a_server(offline: Run, file: Path, tmp_path: Path) -> None:
    assert "3 lines of CHAT, nothing wrong" in offline("datasets", "check", str(file)).out
    bad = tmp_path / "bad.jsonl"
    bad.write_text(LINE + "{\n" + '{"text": 3}\n')
    found = offline("datasets", "check", str(bad), "--format", "json")
    assert (found.code, found.json["line_count"]) == (1, 3)
    assert {error["line"] for error in found.json["errors"]} == {2, 3}
    assert "invalid_json" in offline("datasets", "check", str(bad)).out
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert offline("datasets", "check", str(empty)).code == 1
    assert offline("datasets", "check", str(tmp_path / "missing")).code == 2


def test_an_upload_with_errors_sends_nothing_and_shows_them(trellis: Run, server: FakeServer, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n" * 3)
    sent = trellis("datasets", "upload", str(bad), "--dataset", "support")
    assert sent.code == 1
    assert sent.err.count("invalid_json") >= 3
    assert server.faults.calls == []
    server.datasets.report.valid = False
    assert trellis("datasets", "upload", str(bad), "--dataset", "support", "--no-check").code == 1
    assert "UploadDatasetVersion" in server.faults.calls


def test_adapters(trellis: Run, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    made = trellis("adapters", "import", str(folder), "--base-model", "tiny", "--format", "json").json
    short = made["digest"][:24]
    assert trellis("adapters", "alias", "set", "support", short, "--format", "json").json["adapter"] == made["name"]
    assert trellis("adapters", "alias", "list", "--format", "json").json[0]["name"] == "tenants/acme/aliases/support"
    assert trellis("adapters", "alias", "get", "support").code == 0
    for name in (short, made["name"], "support"):
        assert trellis("adapters", "get", name, "--format", "json").json["manifest"] == {"rank": 4, "files": ["a"]}
    assert trellis("adapters", "deploy", "support", "--format", "json").json["deployment"] == "DEPLOYED"
    assert "DEPLOYED" in trellis("adapters", "list").out
    assert "UNDEPLOYED" in trellis("adapters", "undeploy", "support").out
    files = trellis("adapters", "download", "support", "-o", str(tmp_path / "out"), "--format", "json").json["files"]
    assert [Path(file).name for file in files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert trellis("adapters", "alias", "delete", "support").code == 0
    assert trellis("adapters", "delete", short).code == 0


def test_generate(trellis: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = trellis("generate", "Where is it?", "--model", "support", "--temperature", "0")
    assert answer.out == "Where is it? \n"
    assert "stop, 3 + 3 tokens" in answer.err
    assert server.inference.requests[0].model == "tenants/acme/aliases/support"
    lines = trellis("generate", "a b", "-m", "support", "--raw", "--format", "json").lines
    assert [line["text"] for line in lines] == ["a ", "b ", ""]
    assert lines[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "cached_prompt_tokens": 0}
    assert "other" in trellis("generate", "a", "-m", "support", "--logprobs", "1").out
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert trellis("generate", "-m", "support").out == "from a pipe \n"


def test_generate_several_answers(trellis: Run) -> None:
    found = trellis("generate", "a b", "-m", "support", "--n", "2")
    assert found.out == "a b \na b \n"
    assert found.err.index("[answer 1, stop]") < found.err.index("[answer 0, stop, 3 + 4 tokens]")
    lines = trellis("generate", "a", "-m", "support", "--n", "2", "--format", "json").lines
    assert [line["index"] for line in lines] == [0, 1, 1, 0]


def test_generate_of_a_shape(trellis: Run, server: FakeServer, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    penalties = (
        "--min-p",
        "0.1",
        "--repetition-penalty",
        "1.2",
        "--presence-penalty",
        "-1",
        "--frequency-penalty",
        "1",
    )
    assert trellis("generate", "a", "-m", "support", "--json-schema", str(schema), *penalties).code == 0
    assert trellis("generate", "a", "-m", "support", "--json-object").code == 0
    bound, loose = server.inference.requests
    assert bound.response_format.json_schema == '{"type": "object"}'
    assert (bound.sampling.min_p, bound.sampling.repetition_penalty) == (0.1, 1.2)
    assert (bound.sampling.presence_penalty, bound.sampling.frequency_penalty) == (-1.0, 1.0)
    assert loose.response_format.json_object


def test_config(offline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("tr_test_key\n"))
    made = offline("config", "set-profile", "local", "--endpoint", server.endpoint, "--tenant", "acme", "--ask-key")
    assert made.code == 0
    assert offline("tenants", "create", "acme").code == 0
    key = tmp_path / "key"
    key.write_text("tr_test_key")
    offline("config", "set-profile", "other", "--endpoint", "localhost:1", "--api-key-file", str(key))
    shown = offline("config", "list")
    assert "tr_test_key" not in shown.out
    listed = offline("config", "list", "--format", "json").json
    assert [(one["name"], one["current"], one["key"]) for one in listed] == [
        ("local", True, "in the profile"),
        ("other", False, str(key)),
    ]
    assert offline("config", "use", "other", "--format", "json").json["current"] is True
    assert offline("tenants", "list", "--profile", "local").code == 0
    assert (
        offline("--profile", "other", "tenants", "list", "--profile", "local", "--endpoint", server.endpoint).code == 0
    )
    assert offline("config", "use", "missing").code == 1
    assert offline("config", "delete", "other", "--format", "json").json == {"deleted": "other"}
    key_option = ["--endpoint", server.endpoint, "--api-key-file", str(key)]
    assert offline(*key_option, "tenants", "list").code == 0


def test_version(offline: Run) -> None:
    assert offline("version").out.startswith("trellis 0.")
    assert set(offline("version", "--format", "json").json) == {"trellis", "python"}
