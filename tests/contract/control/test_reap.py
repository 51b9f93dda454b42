"""What is over is cleared away, and what is not ours is left alone."""

from dataclasses import replace

import pytest
from tests.contract.control.platform import UID, Platform
from tests.contract.control.test_job_life import RUN, running
from tests.contract.store import samples

from trellis.errors import Unavailable
from trellis.server.app.hosts import RunRequest, RunStatus
from trellis.server.control.metrics import JOBS, OLDEST_QUEUED, MeasureJobs
from trellis.server.control.reap import ReapOrphans
from trellis.server.domain.dataset import ReportState, Upload, UploadPart
from trellis.server.domain.tuning_job import JobState


async def submit(platform: Platform, run: str) -> None:
    await platform.cluster.submit(RunRequest(run, ("sleep", "9"), {}, 1.0, 0.0, {}))


async def test_a_run_that_nobody_knows_is_stopped(platform: Platform) -> None:
    await submit(platform, "trellis-here-uid-nobody-1")
    await submit(platform, "trellis-here-strange")
    await platform.server().orphans.once()
    assert platform.cluster.alive() == []


async def test_runs_of_others_are_left_alone(platform: Platform) -> None:
    foreign = ["trellis-there-uid-acme-1-1", "trellis-hereafter-uid-1-1", "raysubmit_1", "trellis"]
    for run in foreign:
        await submit(platform, run)
    await platform.server().round()
    assert platform.cluster.alive() == foreign


async def test_runs_of_attempts_that_go_on_are_left_alone(platform: Platform) -> None:
    server = await running(platform)
    await server.orphans.once()
    assert platform.cluster.alive() == [RUN]


async def test_a_run_that_was_submitted_after_its_attempt_was_cleaned_up_is_stopped(platform: Platform) -> None:
    server = platform.server()
    await platform.add_jobs(samples.alone())
    await server.admit.once()
    await platform.cancel()
    await server.stop.once()
    await server.reap.once()
    await submit(platform, RUN)
    await server.orphans.once()
    assert platform.cluster.alive() == []


async def test_a_run_whose_job_was_deleted_is_stopped(platform: Platform) -> None:
    server = await running(platform)
    await platform.complete(RUN)
    async with platform.units() as unit:
        await unit.jobs.delete("acme", "job-1")
        await unit.commit()
    await server.round()
    assert platform.cluster.alive() == []


async def test_the_last_output_is_kept_once_though_the_cluster_forgets_badly(platform: Platform) -> None:
    server = await running(platform)
    platform.cluster.end(RUN, RunStatus.FAILED, "killed", output="x" * 100_000 + "\nthe end\n")
    await server.watch.once()

    def fail(method: str) -> None:
        if method == "forget":
            raise Unavailable("ENGINE_UNAVAILABLE", "No.")

    platform.cluster.before = fail
    with pytest.raises(Unavailable):
        await server.reap.once()
    await server.reap.once()
    log = await platform.log()
    assert log.endswith("as the cluster kept it ---\nthe end\n")
    assert log.count("the end") == 1


async def put_upload(platform: Platform, sha256: str, seconds: float) -> str:
    upload = Upload("acme", "faq", sha256, 10, samples.at(seconds))
    key = f"tenants/acme/uploads/faq/{sha256}/0"
    platform.store.put_bytes(key, b"12345")
    async with platform.units() as unit:
        await unit.datasets.start_upload(upload)
        assert await unit.datasets.add_part(upload, UploadPart(0, 5, key), samples.at(seconds))
        await unit.commit()
    return key


async def test_uploads_that_were_given_up_are_dropped_with_their_parts(platform: Platform) -> None:
    stale, fresh = await put_upload(platform, "a" * 64, 0), await put_upload(platform, "b" * 64, 3600)
    platform.clock.pass_seconds(24 * 3600 + 1)
    assert not await platform.server().orphans.once()
    assert (platform.store.exists(stale), platform.store.exists(fresh)) == (False, True)
    async with platform.units(write=False) as unit:
        assert await unit.datasets.get_upload("acme", "faq", "a" * 64) is None
        assert await unit.datasets.get_upload("acme", "faq", "b" * 64) is not None


async def test_an_upload_that_goes_on_at_the_last_moment_is_kept(platform: Platform) -> None:
    key = await put_upload(platform, "a" * 64, 0)
    platform.clock.pass_seconds(24 * 3600 + 1)
    step = ReapOrphans(platform.control())
    async with platform.units(write=False) as unit:
        (seen,) = await unit.datasets.stale_uploads(platform.clock.now(), 9)
    async with platform.units() as unit:
        assert await unit.datasets.add_part(seen, UploadPart(5, 5, key), platform.clock.now())
        await unit.commit()
    await step._drop(seen)
    assert platform.store.exists(key)


async def test_jobs_are_counted(platform: Platform) -> None:
    await platform.add_jobs(samples.alone(1), samples.alone(2), samples.alone(3))
    await platform.server().admit.once()
    platform.clock.pass_seconds(63)
    await MeasureJobs(platform.control()).once()
    counted = {state: JOBS.labels(state.value)._value.get() for state in JobState}
    assert counted == {**dict.fromkeys(JobState, 0), JobState.QUEUED: 1, JobState.STARTING: 2}
    assert OLDEST_QUEUED._value.get() == 60


async def test_a_dataset_that_turned_out_bad_fails_its_job_with_the_summary(platform: Platform) -> None:
    await platform.add_jobs(samples.alone())
    async with platform.units() as unit:
        await unit.datasets.delete("acme", "faq")
        await unit.datasets.add(samples.dataset())
        await unit.datasets.add_version(samples.version())
        await unit.datasets.add_report(samples.report())
        await unit.commit()
    server = platform.server()
    await server.round()
    waiting = (await platform.job()).queue_reason
    assert waiting is not None
    assert waiting.code == "DATASET_VALIDATING"
    async with platform.units() as unit:
        claim = samples.claim("here")
        report = await unit.datasets.claim_report(claim, platform.clock.now())
        assert report is not None
        done = replace(report, state=ReportState.DONE, summary="2 errors in 3 lines: 2 invalid_json.")
        assert await unit.datasets.save_report(done, claim)
        await unit.commit()
    await server.round()
    job = await platform.job()
    assert (job.state, job.attempt_count) == (JobState.FAILED, 0)
    assert job.error is not None
    assert job.error.reason == "DATASET_INVALID"
    assert "2 errors in 3 lines" in job.error.message
    assert (await platform.events(UID))[-1].message == job.error.message
