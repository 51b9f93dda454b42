"""A job is admitted with all of its settings chosen, and with data that its method learns from: that needs its report."""

from dataclasses import replace

from tests.contract.control.platform import UID, Platform
from tests.contract.store import samples

from trellis.auto import AUTO_FIELDS
from trellis.errors import Reason
from trellis.server.domain.dataset import DatasetVersion, ReportState, VersionState
from trellis.server.domain.tuning_job import JobState, QueueCode
from trellis.spec import Distributed

SHA = "f" * 64


async def asked_for(platform: Platform, kind: str) -> DatasetVersion:
    """A version of which the report is still to be made."""
    version = replace(samples.version(SHA), kind=kind, line_count=1000)
    async with platform.units() as unit:
        await unit.datasets.add_version(replace(version, kind="", line_count=0))
        await unit.datasets.add_report(replace(samples.report(SHA), state=ReportState.PENDING))
        await unit.commit()
    return version


async def report_on(platform: Platform, version: DatasetVersion) -> None:
    """Its report is made, and found no errors."""
    async with platform.units() as unit:
        report = await unit.datasets.claim_report(samples.claim("c"), platform.clock.now())
        assert report is not None
        done = replace(report, state=ReportState.DONE, valid=True, trainable_token_count=9000)
        assert await unit.datasets.save_report(done, samples.claim("c"))
        await unit.datasets.save_version(replace(version, state=VersionState.READY))
        await unit.commit()


async def test_settings_are_chosen_when_the_report_is_there_and_before_the_admission(platform: Platform) -> None:
    version = await asked_for(platform, "chat")
    spec = samples.spec(training_dataset=version.name, auto=AUTO_FIELDS, distributed=Distributed())
    await platform.add_jobs(samples.job(spec=spec))
    server = platform.server()
    await server.admit.once()
    waiting = await platform.job()
    assert (waiting.state, waiting.spec.auto) == (JobState.QUEUED, AUTO_FIELDS)
    assert waiting.queue_reason is not None
    assert waiting.queue_reason.code is QueueCode.DATASET_VALIDATING

    await report_on(platform, version)
    await server.admit.once()
    admitted = await platform.job()
    assert (admitted.uid, admitted.state, admitted.spec.auto) == (UID, JobState.STARTING, ())
    told = {one.field: one for one in admitted.spec.resolved}
    assert told["supervised.batch_size"].value == str(admitted.spec.batch_size) == "16"
    assert "900 lines" in told["supervised.batch_size"].rule


async def test_lines_of_another_kind_fail_the_job_before_it_starts(platform: Platform) -> None:
    version = await asked_for(platform, "preference")
    await platform.add_jobs(samples.job(spec=samples.spec(training_dataset=version.name)))
    server = platform.server()
    await server.admit.once()
    assert (await platform.job()).state is JobState.QUEUED
    await report_on(platform, version)
    await server.admit.once()
    failed = await platform.job()
    assert (failed.state, failed.attempt_count) == (JobState.FAILED, 0)
    assert failed.error is not None
    assert failed.error.reason == Reason.DATASET_INVALID
    assert "choose preference tuning" in failed.error.message
