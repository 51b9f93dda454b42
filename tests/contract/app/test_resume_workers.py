"""A paused job that runs by itself goes on with another number of workers; its losses' settings stay as they are."""

from dataclasses import replace

import pytest
from tests.contract.app.test_never_fits import context, spread
from tests.contract.app.test_quota_limits import limit, refused, said
from tests.server_fakes import World, submit

from trellis.errors import InvalidArgument, Reason
from trellis.server.app.context import Context
from trellis.server.app.stopping import pause_tuning_job, resume_tuning_job
from trellis.server.domain.ledger import Meter
from trellis.server.domain.tuning_job import JobState, TuningJob

__all__ = ["context"]


async def held(world: World, job: TuningJob) -> dict[Meter, int]:
    async with world.context.units(write=False) as unit:
        return dict(await unit.ledger.held(job.uid))


async def test_a_job_is_queued_with_other_workers_and_what_it_takes_then(world: World, context: Context) -> None:
    job = await spread(context, 2)
    before = await held(world, job)
    await pause_tuning_job(context, job.name)
    more = await resume_tuning_job(context, job.name, 6)
    assert more.state is JobState.QUEUED
    assert more.spec == replace(job.spec, distributed=replace(job.spec.distributed, workers=6))
    assert more.estimate.accelerators == 6
    assert more.estimate.seconds < job.estimate.seconds
    assert (await held(world, job))[Meter.TRAINED_TOKENS] == before[Meter.TRAINED_TOKENS]
    assert (await held(world, job))[Meter.ACCELERATOR_MILLISECONDS] > before[Meter.ACCELERATOR_MILLISECONDS]
    async with context.units(write=False) as unit:
        stored = await unit.jobs.get_by_uid(job.uid)
        events = await unit.jobs.events(job.uid, 0, 100)
    assert stored is not None
    assert stored.spec == more.spec
    assert events[-1].message == (
        "The job was resumed with 6 workers, after 2, and is queued; it goes on from its last checkpoint."
    )
    await pause_tuning_job(context, job.name)
    assert (await resume_tuning_job(context, job.name, 2)).estimate == job.estimate
    assert await held(world, job) == before


async def test_what_can_never_be_is_refused_and_changes_nothing(world: World, context: Context) -> None:
    job = await spread(context, 2)
    await limit(world, accelerators=3.0)
    await pause_tuning_job(context, job.name)
    assert said(await refused(resume_tuning_job(context, job.name, 4))) == (Reason.NEVER_FITS, "accelerators", 3, 0, 4)
    for workers in (0, -1, 5000):
        error = await refused(resume_tuning_job(context, job.name, workers))
        assert isinstance(error, InvalidArgument)
        assert [violation.field for violation in error.violations] == ["workers"]
    assert (await resume_tuning_job(context, job.name)).spec == job.spec


async def test_a_job_that_shares_its_trainer_has_no_workers_of_its_own(context: Context) -> None:
    job = await submit(context, "acme")
    await pause_tuning_job(context, job.name)
    error = await refused(resume_tuning_job(context, job.name, 2))
    assert [violation.field for violation in error.violations] == ["workers"]
    assert "shares with other jobs" in str(error)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PAUSING])
async def test_only_a_job_whose_process_has_left_changes_its_workers(context: Context, state: JobState) -> None:
    job = await spread(context, 2)
    if state is JobState.PAUSING:
        async with context.units() as unit:
            await unit.jobs.get_by_uid(job.uid, for_update=True)
            for step in (JobState.STARTING, JobState.RUNNING, JobState.PAUSING):
                job = await unit.jobs.save(job.moved(step, context.now()))
            await unit.commit()
    error = await refused(resume_tuning_job(context, job.name, 1))
    assert error.reason == Reason.INVALID_STATE
