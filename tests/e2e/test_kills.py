"""Processes die in the middle of jobs; what was acknowledged is kept, and each job goes on where it was."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e import lines, tuning
from tests.e2e.conftest import Team
from tests.e2e.platform import Platform, kill
from tests.e2e.tuning import Watching, at_step, has_checkpoint, in_phase, in_state

import trellis
from trellis.client.types import JobState
from trellis.local.processes import marked_pids

LONG = trellis.TrainingSettings(
    lora=trellis.LoraSpec(rank=4), epochs=100, batch_size=1, checkpoint_steps=50, held_out_fraction=0.0
)


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Jobs that were disturbed, and what was acknowledged before."""

    watched: Watching
    """The server was killed again and again; nobody touched its trainer."""
    killed: tuple[Watching, Watching]
    """Of two tenants, on one trainer that was killed after their first checkpoints."""
    fresh: bytes
    version: str
    key: str


def submit(team: Team) -> Watching:
    """The very job that was done undisturbed."""
    job = team.client.jobs.create(tuning.DATASET, supervised=tuning.SPEC)
    return Watching(team.client, job.name)


@pytest.fixture(scope="module")
def disturbed(platform: Platform, globex: Team, initech: Team) -> Disturbed:
    fresh = lines.chat_lines(("one", "two"), 12)
    version = tuning.upload(globex.client, fresh, "fresh")
    key = globex.client.api_keys.create(display_name="fresh").secret
    watched = submit(globex)
    platform.kill_server(lambda: True)  # just after it said that it has the job
    platform.kill_server(lambda: platform.trainer_pids() and watched.seen(in_state(JobState.RUNNING)))
    platform.kill_server(lambda: watched.seen(at_step(10)))
    platform.kill_server(lambda: watched.seen(in_phase("checking the adapter", "evaluating the adapter")))
    watched.finish()
    killed = submit(globex), submit(initech)
    for watching in killed:
        watching.until(has_checkpoint, "a checkpoint is committed")
    kill(*platform.trainer_pids())
    for watching in killed:
        watching.finish()
    return Disturbed(watched, killed, fresh, version, key)


def assert_as_undisturbed(team: Team, job: trellis.TuningJob) -> None:
    """Each step's metrics once, the losses and the adapter those of the job that nobody disturbed."""
    assert tuning.losses(team.client, job.name) == tuning.losses(team.client, team.done.name)
    assert job.tuned_evaluation == team.done.tuned_evaluation
    tuned, undisturbed = (team.client.adapters.get(name).manifest for name in (job.adapter, team.done.adapter))
    assert tuned is not None
    assert undisturbed is not None
    assert tuned["files"] == undisturbed["files"]


def test_a_job_does_not_notice_that_the_server_is_killed(globex: Team, disturbed: Disturbed) -> None:
    events = disturbed.watched.events
    assert tuning.gapless(events)
    done = globex.client.jobs.get(disturbed.watched.job)
    assert done.state is JobState.SUCCEEDED, done.error
    assert done.attempt_count == 1
    states = [event.state for event in events if event.state]
    assert states == [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED]
    assert_as_undisturbed(globex, done)


def test_jobs_on_a_killed_trainer_go_on_from_their_checkpoints(
    globex: Team, initech: Team, disturbed: Disturbed
) -> None:
    for team, watching in zip((globex, initech), disturbed.killed, strict=True):
        assert_gone_on(team, watching)


def test_what_a_killed_server_acknowledged_is_kept(
    platform: Platform, globex: Team, disturbed: Disturbed, tmp_path: Path
) -> None:
    with platform.client(disturbed.key, globex.name) as client:
        assert client.datasets.get("fresh").latest_version == disturbed.version
        client.datasets.download(disturbed.version, tmp_path / "fresh.jsonl")
    assert (tmp_path / "fresh.jsonl").read_bytes() == disturbed.fresh


def assert_gone_on(team: Team, watching: Watching) -> None:
    """It has succeeded in its second attempt, from a checkpoint, with what an undisturbed one gives."""
    assert tuning.gapless(watching.finish())
    done = team.client.jobs.get(watching.job)
    assert done.state is JobState.SUCCEEDED, done.error
    assert done.attempt_count == 2
    assert any("goes on from the checkpoint of step" in said for said in watching.said())
    assert_as_undisturbed(team, done)


@pytest.mark.parametrize("point", ["queued", "training"])
def test_a_cancelled_job_is_gone_within_seconds(platform: Platform, initech: Team, point: str) -> None:
    trainers = platform.trainer_pids()
    job = initech.client.jobs.create(tuning.DATASET, supervised=LONG)
    watching = Watching(initech.client, job.name)
    if point == "training":
        watching.until(at_step(1), "it trains")
    initech.client.jobs.cancel(job.name)

    events = watching.finish()
    done = initech.client.jobs.get(job.name)
    assert done.state is JobState.CANCELLED
    assert not done.adapter
    assert tuning.gapless(events)
    if point == "training":
        asked, ended = (next(filter(in_state(s), events)).time for s in (JobState.CANCELLING, JobState.CANCELLED))
        assert asked is not None
        assert ended is not None
        assert (ended - asked).total_seconds() < 15
    if trainers:
        assert platform.trainer_pids() == trainers, "the trainer, and whoever else is on it, goes on"
    with pytest.raises(trellis.JobCancelled):
        initech.client.jobs.wait(job.name)
    assert initech.client.jobs.cancel(job.name).state is JobState.CANCELLED


def test_everything_is_killed_and_another_up_goes_on(platform: Platform, globex: Team, initech: Team) -> None:
    watching = submit(globex)
    watching.until(has_checkpoint, "a checkpoint is committed")
    kill(platform.status()["pid"], *marked_pids(platform.data.marker, part="ray"))
    assert platform.status()["state"] == "DOWN"
    platform.up()

    assert_gone_on(globex, watching)
    for team in (globex, initech):
        digest = team.client.adapters.deploy(team.done.adapter).digest
        assert team.says(1).adapter_digest == digest
