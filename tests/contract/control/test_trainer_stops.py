"""Jobs on a shared trainer that are paused, preempted, or hang; the others on it do not notice."""

import pytest
from tests.contract.control.platform import UID, Platform, check_invariants
from tests.contract.control.shared import SharedTrainer
from tests.contract.control.test_trainers import admitted, training

from trellis.errors import Aborted
from trellis.server.app.progress import AttemptReport, report_attempt
from trellis.server.domain.tuning_job import EndCause, JobState, Progress, StopRequest

OTHER = "uid-acme-2"


def tokens(trainer: SharedTrainer) -> list[str]:
    """By the jobs' names."""
    return sorted(trainer.jobs, key=lambda token: trainer.jobs[token])


async def test_a_paused_job_leaves_its_trainer_and_comes_back_to_it(platform: Platform) -> None:
    server, trainer = await training(platform, 1, 2)
    mine, other = tokens(trainer)
    await platform.pause()
    stop = await trainer.report(mine)
    assert stop is not None
    assert stop.request is StopRequest.PAUSE
    assert await trainer.report(other) is None
    await trainer.fail(mine, EndCause.PAUSED)
    await trainer.claim()
    await server.round()
    assert [(await platform.job(uid)).state for uid in (UID, OTHER)] == [JobState.PAUSED, JobState.RUNNING]
    await platform.resume()
    await server.round()
    await trainer.work()
    job = await platform.job()
    assert (job.state, job.attempt_count, job.failure_count) == (JobState.RUNNING, 2, 0)
    assert platform.cluster.started == [trainer.run]
    await check_invariants(platform, [UID, OTHER])


@pytest.mark.parametrize(("deed", "state"), [("pause", JobState.PAUSED), ("preempt", JobState.QUEUED)])
async def test_a_job_that_was_not_given_yet_leaves_at_once(platform: Platform, deed: str, state: JobState) -> None:
    server = await admitted(platform)
    await getattr(platform, deed)()
    assert (await platform.job()).state is state
    trainer = SharedTrainer(platform, platform.cluster.started[0])
    await trainer.start()
    assert not (await trainer.claim()).attempts
    await server.stop.once()
    await check_invariants(platform, [UID])


async def test_a_job_that_does_not_leave_is_fenced_and_its_trainer_goes_on(platform: Platform) -> None:
    server, trainer = await training(platform, 1, 2)
    mine, other = tokens(trainer)
    await platform.preempt("Make room.")
    for number in range(1, 5):
        platform.clock.pass_seconds(15)
        await trainer.claim()
        await trainer.report(mine, number)
        await trainer.report(other, number)
    await server.stop.once()
    job = await platform.job()
    assert (job.state, job.failure_count) == (JobState.QUEUED, 0)
    with pytest.raises(Aborted, match="is over"):
        await trainer.report(mine, 5)
    assert await trainer.report(other, 5) is None
    assert platform.cluster.alive() == [trainer.run]
    await check_invariants(platform, [UID, OTHER])


async def test_a_job_that_makes_no_step_on_a_trainer_is_ended_alone(platform: Platform) -> None:
    server, trainer = await training(platform, 1, 2)
    for number in range(1, 93):
        platform.clock.pass_seconds(20)
        await trainer.claim()
        for token, step in zip(tokens(trainer), (7, number), strict=True):
            report = AttemptReport(number, Progress(step, 1000, "training"))
            await report_attempt(platform.app, await platform.caller_of(token), report)
    await server.steps_watch.once()
    assert [(await platform.job(uid)).state for uid in (UID, OTHER)] == [JobState.QUEUED, JobState.RUNNING]
    assert "at step 7 in the phase 'training'" in (await platform.events())[-1].message
