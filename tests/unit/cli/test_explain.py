"""`trellis jobs explain`: a text for people, and JSON."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click
import pytest
from tests.fake_server import FakeServer
from tests.unit.cli.conftest import Ran

from trellis.cli.explanation_view import explanation_lines
from trellis.client.types import JobState, QueueReason, QueueReasonCode, TuningJobExplanation
from trellis.v1.tuning_job_pb2 import TuningJob

Run = Callable[..., Ran]
JOB = "tenants/acme/tuningJobs/a"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_it_says_why_when_and_what_would_help(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    shown = trellis("jobs", "explain", "a")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0] == f"{JOB} waits."
    assert "  CAPACITY  No room." in lines
    assert "  2 jobs: 0 of this tenant, 2 of others" in lines
    when = lines[lines.index("When") + 1]
    assert ", in 30:00, in 9 of 10 cases between " in when
    assert lines[-1] == "  With 2 workers instead of 4 it would start now.  (distributed.workers = 2)"


def test_json_has_the_fields_of_the_api(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    found = trellis("jobs", "explain", "a", "--format", "json").json
    assert found.keys() == {field.name for field in dataclasses.fields(TuningJobExplanation)}
    assert (found["reasons"][0]["code"], found["predicted_start_time"]) == ("CAPACITY", "2023-11-14T22:43:20Z")


def test_a_job_that_does_not_wait(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    server.jobs.jobs[JOB].state = TuningJob.STATE_RUNNING
    assert trellis("jobs", "explain", "a").out == f"{JOB} is RUNNING and waits for nothing.\n"
    assert trellis("jobs", "explain", "none").code == 1


def test_what_is_to_be_known_of_an_ended_job_is_shown(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    server.jobs.jobs[JOB].state = TuningJob.STATE_SUCCEEDED
    server.jobs.jobs[JOB].warnings.append("Held-out loss rose.")
    ended = f"{JOB} is SUCCEEDED and waits for nothing."
    assert trellis("jobs", "explain", "a").out.splitlines() == [ended, "  WARNING  Held-out loss rose."]
    shown = trellis("jobs", "get", "a")
    assert shown.out.splitlines()[-1] == "WARNING  Held-out loss rose."
    assert trellis("jobs", "get", "a", "--format", "json").json["warnings"] == ["Held-out loss rose."]


def test_a_job_that_the_cluster_can_not_start_yet(trellis: Run, server: FakeServer) -> None:
    trellis("jobs", "create", "--dataset", "support", "--job-id", "a")
    why = TuningJob.QueueReason(code=TuningJob.QueueReason.CODE_CLUSTER, message="No node has 4 GPUs free.")
    server.jobs.jobs[JOB].state = TuningJob.STATE_STARTING
    server.jobs.jobs[JOB].queue_reason.CopyFrom(why)
    assert trellis("jobs", "explain", "a").out.splitlines() == [
        f"{JOB} has been given capacity, and waits for the cluster.",
        "",
        "Why",
        "  CLUSTER  No node has 4 GPUs free.",
    ]
    (reason,) = trellis("jobs", "explain", "a", "--format", "json").json["reasons"]
    assert reason["code"] == "CLUSTER"
    assert "No node has 4 GPUs free." in trellis("jobs", "list").out
    assert "No node has 4 GPUs free." in trellis("jobs", "get", "a").out


def explained(**changes: object) -> list[str]:
    reason = QueueReason(QueueReasonCode.QUOTA, "It \x1b[31mneeds\x1b[0m much.", 3)
    plain = TuningJobExplanation(
        JOB, JobState.QUEUED, (reason,), 3, ("tenants/acme/tuningJobs/b",), 2, None, None, None, (), NOW
    )
    return [click.unstyle(line) for line in explanation_lines(dataclasses.replace(plain, **changes))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("minutes", "said"),
    [(None, "  nothing can be said"), (0, "  now"), (90, ", in 1:30:00, in 9 of 10 cases between ")],
)
def test_when_it_starts(minutes: int | None, said: str) -> None:
    times = [None] * 3 if minutes is None else [NOW + timedelta(minutes=minutes)] * 3
    names = ("earliest_start_time", "predicted_start_time", "latest_start_time")
    lines = explained(**dict(zip(names, times, strict=True)))
    assert said in lines[lines.index("When") + 1]


def test_own_jobs_are_named_others_counted_and_nothing_steers_the_terminal() -> None:
    lines = explained()
    assert "  3 jobs: 1 of this tenant, 2 of others" in lines
    assert "  tenants/acme/tuningJobs/b" in lines
    assert r"  QUOTA  It \x1b[31mneeds\x1b[0m much." in lines
    assert "  no job" in explained(position=0, other_jobs_before=0, own_jobs_before=())
