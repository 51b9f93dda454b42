"""Explanations of jobs, with both clients."""

from datetime import timedelta

import pytest
from tests.client_rig import Rig, got

from trellis import JobState, NotFound, QueueReasonCode
from trellis.v1.tuning_job_pb2 import TuningJob

JOB = "tenants/acme/tuningJobs/a"


async def test_a_job_that_waits_is_explained(rig: Rig) -> None:
    await got(rig.client.jobs.create("support", job_id="a"))
    found = await got(rig.client.jobs.explain("a"))
    assert (found.tuning_job, found.state, found.position) == (JOB, JobState.QUEUED, 2)
    assert [(reason.code, reason.message) for reason in found.reasons] == [(QueueReasonCode.CAPACITY, "No room.")]
    assert found.predicted_start_time - found.time == timedelta(minutes=30)
    assert found.earliest_start_time < found.predicted_start_time < found.latest_start_time
    (change,) = found.alternatives
    assert (change.field, change.value, change.start_time) == ("distributed.workers", "2", found.time)


async def test_a_job_that_does_not_wait_has_only_its_state(rig: Rig) -> None:
    await got(rig.client.jobs.create("support", job_id="a"))
    rig.server.jobs.jobs[JOB].state = TuningJob.STATE_RUNNING
    found = await got(rig.client.jobs.explain(JOB))
    assert (found.state, found.reasons, found.alternatives) == (JobState.RUNNING, (), ())
    assert found.predicted_start_time is None
    with pytest.raises(NotFound):
        await got(rig.client.jobs.explain("none"))
