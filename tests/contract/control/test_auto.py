"""A job is admitted with all of its settings chosen, which needs its report."""

from dataclasses import replace

from tests.contract.control.platform import UID, Platform
from tests.contract.store import samples

from trellis.auto import AUTO_FIELDS
from trellis.server.domain.dataset import ReportState, VersionState
from trellis.server.domain.tuning_job import JobState, QueueCode
from trellis.spec import Distributed

SHA = "f" * 64


async def test_settings_are_chosen_when_the_report_is_there_and_before_the_admission(platform: Platform) -> None:
    version = replace(samples.version(SHA), kind="chat", line_count=1000)
    async with platform.units() as unit:
        await unit.datasets.add_version(version)
        await unit.datasets.add_report(replace(samples.report(SHA), state=ReportState.PENDING))
        await unit.commit()
    spec = samples.spec(training_dataset=version.name, auto=AUTO_FIELDS, distributed=Distributed())
    await platform.add_jobs(samples.job(spec=spec))
    server = platform.server()
    await server.admit.once()
    waiting = await platform.job()
    assert (waiting.state, waiting.spec.auto) == (JobState.QUEUED, AUTO_FIELDS)
    assert waiting.queue_reason is not None
    assert waiting.queue_reason.code is QueueCode.DATASET_VALIDATING

    async with platform.units() as unit:
        report = await unit.datasets.claim_report(samples.claim("c"), platform.clock.now())
        assert report is not None
        done = replace(report, state=ReportState.DONE, valid=True, trainable_token_count=9000)
        assert await unit.datasets.save_report(done, samples.claim("c"))
        await unit.datasets.save_version(replace(version, state=VersionState.READY))
        await unit.commit()
    await server.admit.once()
    admitted = await platform.job()
    assert (admitted.uid, admitted.state, admitted.spec.auto) == (UID, JobState.STARTING, ())
    told = {one.field: one for one in admitted.spec.resolved}
    assert told["supervised.batch_size"].value == str(admitted.spec.batch_size) == "16"
    assert "900 lines" in told["supervised.batch_size"].rule
