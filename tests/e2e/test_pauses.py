"""A job that is paused, resumed and preempted makes what one makes that nobody stopped."""

import pytest
from tests.e2e import tuning
from tests.e2e.conftest import Team
from tests.e2e.tuning import Watching, has_checkpoint, in_state

import trellis
from trellis.client.types import JobState


@pytest.fixture(scope="module")
def stopped(globex: Team, admin: trellis.Client) -> Watching:
    """The very job that was done undisturbed; paused once and preempted once."""
    jobs = globex.client.jobs
    watching = Watching(globex.client, jobs.create(tuning.DATASET, supervised=tuning.SPEC).name)
    watching.until(has_checkpoint, "a checkpoint is committed")
    jobs.pause(watching.job)
    watching.until(in_state(JobState.PAUSED), "it has paused")
    assert jobs.get(watching.job).state is JobState.PAUSED
    jobs.resume(watching.job)
    step = max(one.step for one in jobs.checkpoints(watching.job))
    watching.until(lambda event: bool(event.checkpoint and event.checkpoint.step > step), "it goes on")
    admin.jobs.preempt(watching.job, reason="A test wants the room.")
    watching.until(in_state(JobState.PREEMPTING), "it gives way")
    watching.finish()
    return watching


def test_it_makes_the_same_adapter(globex: Team, stopped: Watching) -> None:
    done = globex.client.jobs.get(stopped.job)
    assert done.state is JobState.SUCCEEDED, done.error
    assert done.attempt_count == 3
    assert tuning.losses(globex.client, done.name) == tuning.losses(globex.client, globex.done.name)
    assert done.tuned_evaluation == globex.done.tuned_evaluation
    tuned, undisturbed = (globex.client.adapters.get(name).manifest for name in (done.adapter, globex.done.adapter))
    assert tuned is not None
    assert undisturbed is not None
    assert tuned["files"] == undisturbed["files"]


def test_its_events_say_what_happened_and_none_is_a_warning(stopped: Watching) -> None:
    assert tuning.gapless(stopped.events)
    states = [event.state for event in stopped.events if event.state]
    began = [JobState.QUEUED, JobState.STARTING, JobState.RUNNING]
    assert states == [
        *(*began, JobState.PAUSING, JobState.PAUSED),
        *(*began, JobState.PREEMPTING),
        *(*began, JobState.SUCCEEDED),
    ]
    assert any(said.endswith("A test wants the room.") for said in stopped.said())
    assert not [event.message for event in stopped.events if event.level == "WARNING"]


def test_a_checkpoint_of_it_is_promoted_and_answers(globex: Team, stopped: Watching) -> None:
    last = max((one for one in globex.client.jobs.checkpoints(stopped.job)), key=lambda one: one.step)
    made = globex.client.jobs.promote_checkpoint(last.name)
    globex.client.adapters.deploy(made.name, timeout=120)
    assert globex.says(1, made.name).text == globex.says(1, globex.done.adapter).text
