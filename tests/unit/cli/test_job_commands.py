"""Commands about jobs, against a server over a real socket."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fake_server import KEY, FakeServer
from tests.unit.cli.conftest import Ran

from trellis.v1.tuning_job_pb2 import TuningJob, TuningJobEvent

Run = Callable[..., Ran]
LINE = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'
JOB = "tenants/acme/tuningJobs/a"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "support.jsonl"
    path.write_text(LINE * 3)
    return path


def test_jobs(trellis: Run, server: FakeServer) -> None:
    options = ["--rank", "8", "--learning-rate", "0.01", "--schedule", "linear", "--precision", "bf16", "--deploy"]
    made = trellis(
        "jobs", "create", "--dataset", "support", "--job-id", "a", "--priority", "5", *options, "--format", "json"
    ).json
    assert made["name"] == JOB
    assert made["supervised"]["lora"]["rank"] == 8
    assert (made["supervised"]["schedule"], made["supervised"]["precision"]) == ("LINEAR", "BF16")
    assert (made["supervised"]["epochs"], made["deploy"], made["progress"]) == (None, True, None)
    assert (made["priority"], made["preemption_count"], made["estimate"]["trained_tokens"]) == (5, 0, 1200)
    shown = trellis("jobs", "get", "a").out
    assert "1,200 tokens." in shown
    assert "preemption count" in shown
    assert "No room." in trellis("jobs", "list").out
    assert trellis("jobs", "list", "--state", "queued", "--format", "json").json == [made]
    assert trellis("jobs", "list", "--state", "failed", "--all-tenants", "--format", "json").json == []
    assert "queue reason" in trellis("jobs", "get", "a").out
    assert trellis("jobs", "cancel", "a", "--format", "json").json["state"] == "CANCELLING"
    server.jobs.finish(JOB)
    assert trellis("jobs", "logs", "a").out == "line 1\nline 2\nline 3\n"
    assert [line["next_offset"] for line in trellis("jobs", "logs", "a", "-f", "--format", "json").lines] == [1, 2, 3]
    assert trellis("jobs", "metrics", "a", "--format", "json").json[0]["values"] == {"train_loss": 1.0}
    assert trellis("jobs", "metrics", "a").out.splitlines()[2].split() == ["2", "0.5"]
    plot = trellis("jobs", "metrics", "a", "--plot").out
    assert "train_loss" in plot
    assert any("\u2800" < character <= "\u28ff" for character in plot)
    assert trellis("jobs", "checkpoints", "a", "--format", "json").json[0]["step"] == 50
    assert trellis("jobs", "delete", "a").code == 0


def test_jobs_are_paused_resumed_and_preempted(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    assert trellis("jobs", "pause", "a", "--format", "json").json["state"] == "PAUSED"
    assert "PAUSED" in trellis("jobs", "list", "--state", "paused").out
    assert trellis("jobs", "resume", "a", "--format", "json").json["state"] == "QUEUED"
    refused = trellis("jobs", "resume", "a")
    assert refused.code == 1
    assert "is QUEUED" in refused.err
    assert trellis("jobs", "pause", "a").code == 0
    again = trellis("jobs", "resume", "a", "--workers", "4", "--format", "json").json
    assert (again["state"], again["distributed"]["workers"]) == ("QUEUED", 4)
    server.jobs.jobs[JOB].state = TuningJob.STATE_RUNNING
    shown = trellis("jobs", "preempt", "a", "--reason", "A node goes down.", "--format", "json").json
    assert (shown["state"], server.jobs.reasons) == ("PREEMPTING", ["A node goes down."])


def test_a_watched_job_that_is_paused_says_so_and_is_watched_on(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    server.jobs.finish(JOB)
    events = server.jobs.events[JOB]
    paused = TuningJobEvent(message="The job is paused.", state=TuningJob.STATE_PAUSED)
    events.insert(4, paused)
    for number, event in enumerate(events, 1):
        event.sequence = number
    seen = trellis("jobs", "watch", "a")
    assert seen.code == 0
    lines = [line for line in seen.out.splitlines() if "PAUSED" in line]
    assert lines == ["--:--:--  PAUSED  The job is paused."]
    assert "SUCCEEDED" in seen.out.partition("PAUSED")[2]


def test_checkpoints(trellis: Run) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    assert trellis("jobs", "pin", "a", "50", "--format", "json").json["pinned"] is True
    head, row = trellis("jobs", "checkpoints", "a").out.splitlines()
    assert head.split()[:6] == ["STEP", "ATTEMPT", "VALID", "LOSS", "BEST", "PINNED"]
    assert row.split()[:5] == ["50", "1", "0.5", "yes", "yes"]
    assert trellis("jobs", "unpin", "a", "50", "--format", "json").json["pinned"] is False
    made = trellis("jobs", "promote", "a", "50", "--display-name", "Early", "--format", "json").json
    assert (made["display_name"], made["tuning_job"]) == ("Early", JOB)
    assert trellis("jobs", "pin", "a", "51").code == 1


def test_a_debug_bundle_has_all_that_is_known_of_a_job_that_failed(
    trellis: Run, server: FakeServer, file: Path, tmp_path: Path
) -> None:
    trellis("datasets", "upload", str(file), "--dataset", "support")
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    job = server.jobs.jobs[JOB]
    job.resolved_settings.add(field="supervised.epochs", value="5", rule="Few lines.")
    printed = f"Authorization: Bearer {KEY}; tra_{'0a-_f' * 9}\n"
    others = f"s3://AKIA{'B' * 16}:hidden@store/x hf_{'a' * 34} Bearer abcdefgh12 AWS_SECRET_ACCESS_KEY=hidden\n"
    server.jobs.log = ["Step 1.\n", printed, others]
    server.jobs.finish(JOB, TuningJob.STATE_FAILED)
    target = tmp_path / "bundle.zip"
    made = trellis("jobs", "debug-bundle", "a", "--output", str(target), "--format", "json")
    assert made.code == 0
    with zipfile.ZipFile(target) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert list(files) == made.json["files"]
    assert list(files) == [
        "README.txt", "job.json", "events.jsonl", "metrics.csv", "metrics.json", "log.txt", "checkpoints.json",
        "training-report.json", "versions.json",
    ]  # fmt: skip
    assert all(name in files["README.txt"] for name in list(files)[1:])
    assert "It failed three times. [ATTEMPTS_EXHAUSTED]" in files["README.txt"]
    shown = json.loads(files["job.json"])
    assert (shown["state"], shown["resolved_settings"][0]["rule"]) == ("FAILED", "Few lines.")
    assert [json.loads(line)["sequence"] for line in files["events.jsonl"].splitlines()] == list(range(1, 12))
    assert files["metrics.csv"].splitlines()[:3] == ["step,train_loss", "1,1.0", "2,0.5"]
    assert [point["step"] for point in json.loads(files["metrics.json"])] == [1, 2, 3, 4]
    assert json.loads(files["checkpoints.json"])[0]["step"] == 50
    assert json.loads(files["training-report.json"])["previews"] == []
    assert set(json.loads(files["versions.json"])) == {"client", "server", "python", "machine"}
    without = "s3://[secret]@store/x [secret] Bearer [secret] AWS_SECRET_ACCESS_KEY=[secret]\n"
    assert files["log.txt"] == f"Step 1.\nAuthorization: Bearer [secret]; [secret]\n{without}"
    assert not [name for name, text in files.items() if KEY in text]


def test_a_debug_bundle_says_what_is_missing(trellis: Run, server: FakeServer, tmp_path: Path) -> None:
    trellis("jobs", "create", "--dataset", "gone", "--job-id", "a")
    server.jobs.finish(JOB, TuningJob.STATE_CANCELLED)
    target = tmp_path / "bundle.zip"
    assert "job.json" in trellis("jobs", "debug-bundle", "a", "--output", str(target)).out
    with zipfile.ZipFile(target) as archive:
        assert "training-report.json" not in archive.namelist()
        assert "training-report.json is missing" in archive.read("README.txt").decode()
    assert trellis("jobs", "debug-bundle", "none", "--output", str(tmp_path / "x.zip")).code == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".zip") == ["bundle.zip"]


def test_watching_ends_well_only_with_a_success(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    server.jobs.finish(JOB)
    seen = trellis("jobs", "watch", "a")
    assert seen.code == 0
    assert "training  step 1/4  loss 1.0000  ETA 0:30" in seen.out
    assert "tuned      1      90.0%" in seen.out
    assert seen.out.splitlines()[0].endswith("QUEUED  The job waits.")
    events = trellis("jobs", "watch", "a", "--after-sequence", "2", "--format", "json").lines
    assert [event["sequence"] for event in events] == list(range(3, 12))
    assert (events[0]["progress"]["eta"], events[-1]["state"]) == (30.0, "SUCCEEDED")
    server.jobs.finish(JOB, TuningJob.STATE_FAILED)
    failed = trellis("jobs", "watch", "a")
    assert failed.code == 1
    assert "It failed three times. [ATTEMPTS_EXHAUSTED]" in failed.out
    assert trellis("jobs", "watch", "a", "--format", "json").code == 1
    server.jobs.finish(JOB, TuningJob.STATE_CANCELLED)
    assert trellis("jobs", "watch", "a").code == 1


def test_a_live_view_draws_without_a_terminal_of_its_own(
    trellis: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    from trellis.cli.job_view import LiveView  # noqa: PLC0415 - what `jobs watch` shows on a terminal
    from trellis.client import Client  # noqa: PLC0415

    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    server.jobs.finish(JOB)
    capsys.readouterr()
    with Client() as client, LiveView() as view:
        events = list(client.jobs.watch("a"))
        for event in events:
            view.show(event)
        task = view._bar.tasks[0]
    drawn = capsys.readouterr().out
    said = [event for event in events if event.progress is None and event.metrics is None]
    assert said
    assert all(event.message in drawn for event in said if event.message)
    last = [event.progress for event in events if event.progress is not None][-1]
    assert (task.description, task.completed, task.total) == (last.phase, last.step, last.total_steps)
