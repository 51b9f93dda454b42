"""`trellis admin record-queue` writes what the simulator reads."""

from collections.abc import Callable
from pathlib import Path

import click
from click.testing import CliRunner
from tests.fake_server import KEY, FakeServer
from tests.unit.cli.conftest import Ran

from trellis.cli.record_queue import record_queue
from trellis.cli.state import State
from trellis.server.simulator.trace import TraceJob, read_trace
from trellis.v1.tuning_job_pb2 import TuningJob

Run = Callable[..., Ran]
PREFIX = "tenants/acme/tuningJobs/"


def recorded(server: FakeServer, *arguments: str) -> None:
    done = CliRunner().invoke(
        record_queue, arguments, obj=State(), env={"TRELLIS_ENDPOINT": server.endpoint, "TRELLIS_API_KEY": KEY}
    )
    assert done.exit_code == 0, done.exception


def test_past_and_present_jobs_become_a_trace(trellis: Run, server: FakeServer, tmp_path: Path) -> None:
    trellis("tenants", "create", "acme", "--cohort", "lab", "--accelerators", "4")
    for number, name in enumerate(("done", "waits", "failed", "alone")):
        trellis("jobs", "create", "--dataset", "support", "--job-id", name, "--base-model", "tiny")
        server.jobs.jobs[PREFIX + name].create_time.FromSeconds(1000 + 10 * number)
    done, failed, alone = (server.jobs.jobs[PREFIX + name] for name in ("done", "failed", "alone"))
    done.state, failed.state = TuningJob.STATE_SUCCEEDED, TuningJob.STATE_FAILED
    done.start_time.FromSeconds(1100)
    done.end_time.FromSeconds(1400)
    alone.placement, alone.estimate.accelerators = TuningJob.PLACEMENT_DISTRIBUTED, 2.0
    recorded(server, str(tmp_path / "queue.jsonl"), "--accelerators", "8")
    found = read_trace(tmp_path / "queue.jsonl")
    assert found.platform.accelerators == 8
    assert [(one.tenant, one.cohort, one.accelerators) for one in found.tenants] == [("acme", "lab", 4)]
    assert found.jobs == (
        TraceJob("acme/tuningJobs/done", "acme", 0.0, 300.0, base="tiny", estimate=120.0),
        TraceJob("acme/tuningJobs/waits", "acme", 10.0, 120.0, base="tiny", estimate=120.0),
        TraceJob("acme/tuningJobs/alone", "acme", 30.0, 120.0, accelerators=2.0, estimate=120.0),
    )


def test_it_is_a_command_with_help() -> None:
    assert isinstance(record_queue, click.Command)
    assert record_queue.help
