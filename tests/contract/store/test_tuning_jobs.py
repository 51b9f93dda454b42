"""Tuning jobs: what is kept of them, how they are found, and that deleting one takes all its parts."""

from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.errors import AlreadyExists, InvalidArgument, NotFound, Reason
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.tuning_job import (
    Checkpoint,
    Evaluation,
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    MetricPoint,
    Progress,
    QueueCode,
    QueueReason,
    TuningJob,
)
from trellis.spec import Lora

UID = "uid-acme-1"
FULL = samples.job(
    spec=samples.spec(lora=Lora(rank=4, target_modules=("q_proj",)), max_steps=7, learning_rate=3e-4),
    state=JobState.FAILED,
    alias_id="live",
    deploy=True,
    queue_reason=QueueReason(QueueCode.CAPACITY, "Full.", 3),
    progress=Progress(5, 10, "training", 0.25, 12.5, 2**40),
    error=JobError(Reason.TRAINING_FAILED, "It broke.", {"attempt": "2"}),
    adapter_digest=samples.digest(1),
    base_evaluation=Evaluation(2.0, 0.1, 0.2, 30, 20),
    tuned_evaluation=Evaluation(1.0, 0.5, 0.6, 30, 20),
    warnings=("Held-out loss rose.", "And that."),
    adapted_share=0.125,
    attempt_count=2,
    failure_count=1,
    memory_halvings=3,
    decline_count=4,
    used_tokens=2**41,
    used_seconds=1.5,
    export_id="export-1",
    stop_time=samples.at(5),
    retry_time=samples.at(1),
    start_time=samples.at(2),
    cancel_time=samples.at(3),
    end_time=samples.at(4),
    revision=9,
)


@pytest.mark.parametrize("job", [samples.job(), FULL], ids=["fresh", "full"])
async def test_a_job_comes_back(units: UnitOfWorkFactory, job: TuningJob) -> None:
    await samples.seed(units, job)
    async with units() as unit:
        assert await unit.jobs.get("acme", "job-1") == job
        assert await unit.jobs.get("acme", "job-1", for_update=True) == job
        assert await unit.jobs.get_by_uid(UID) == job
        assert await unit.jobs.get_by_uid(UID, for_update=True) == job
        assert await unit.jobs.get("other", "job-1") is None
        assert await unit.jobs.get_by_uid("uid-9") is None


async def test_a_job_is_saved_whole(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job())
    async with units() as unit:
        await unit.jobs.get_by_uid(UID, for_update=True)
        assert await unit.jobs.save(FULL) == FULL
        assert await unit.jobs.get_by_uid(UID) == FULL


async def test_a_name_is_given_once_and_again_after_deletion(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job())
    again = replace(samples.job(), uid="uid-again")
    async with units() as unit:
        with pytest.raises(AlreadyExists) as caught:
            await unit.jobs.add(again)
        assert caught.value.metadata == {"resource": "tenants/acme/tuningJobs/job-1"}
        await unit.jobs.delete("acme", "job-1")
        await unit.jobs.add(again)
        assert await unit.jobs.get("acme", "job-1") == again


async def test_saving_without_the_lock_is_a_bug(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job())
    async with units() as unit:
        job = await unit.jobs.get("acme", "job-1")
        assert job is not None
        with pytest.raises(AssertionError, match="not read for update"):
            await unit.jobs.save(job)


async def test_saving_a_job_that_is_gone_says_so(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job())
    async with units() as unit:
        job = await unit.jobs.get("acme", "job-1", for_update=True)
        assert job is not None
        await unit.jobs.delete("acme", "job-1")
        with pytest.raises(NotFound):
            await unit.jobs.save(job)
        with pytest.raises(NotFound):
            await unit.jobs.append_log(job.uid, 1, "text")


async def test_lists_are_newest_first_by_tenant_and_state(units: UnitOfWorkFactory) -> None:
    states = [JobState.QUEUED, JobState.RUNNING, JobState.FAILED, JobState.QUEUED, JobState.RUNNING]
    await samples.seed(units, *(samples.job(n, state=state) for n, state in enumerate(states, 1)))
    async with units() as unit:
        await unit.tenants.add(samples.tenant("other"))
        await unit.jobs.add(samples.job(1, of="other", seconds=2.5))

        async def names(tenant: str | None, *wanted: JobState, size: int = 2) -> list[str]:
            found: list[str] = []
            cursor: str | None = None
            while True:
                page = await unit.jobs.list(tenant, wanted, size, cursor)
                assert len(page.items) <= size
                found += [job.name.removeprefix("tenants/") for job in page.items]
                cursor = page.next_cursor
                if cursor is None:
                    return found

        assert await names("acme") == [f"acme/tuningJobs/job-{n}" for n in (5, 4, 3, 2, 1)]
        assert await names("acme", JobState.QUEUED) == [f"acme/tuningJobs/job-{n}" for n in (4, 1)]
        both = await names("acme", JobState.QUEUED, JobState.RUNNING, JobState.QUEUED)
        assert both == [f"acme/tuningJobs/job-{n}" for n in (5, 4, 2, 1)]
        everywhere = ["acme/tuningJobs/job-4", "other/tuningJobs/job-1", "acme/tuningJobs/job-1"]
        assert await names(None, JobState.QUEUED) == everywhere
        assert await names(None, JobState.QUEUED, JobState.CANCELLED) == everywhere
        assert len(await names(None)) == 6
        assert await names("nobody") == []


async def test_jobs_in_states_are_oldest_first(units: UnitOfWorkFactory) -> None:
    states = [JobState.QUEUED, JobState.RUNNING, JobState.FAILED, JobState.QUEUED]
    await samples.seed(units, *(samples.job(n, state=state) for n, state in enumerate(states, 1)))
    async with units() as unit:
        found = await unit.jobs.in_states([JobState.QUEUED, JobState.RUNNING], 10)
        assert [job.job_id for job in found] == ["job-1", "job-2", "job-4"]
        found = await unit.jobs.in_states([JobState.QUEUED, JobState.RUNNING], 2)
        assert [job.job_id for job in found] == ["job-1", "job-2"]
        assert await unit.jobs.in_states([JobState.CANCELLED], 10) == []


async def test_pages_stay_what_they_are_while_rows_come(units: UnitOfWorkFactory) -> None:
    same_time = [samples.job(n, seconds=0) for n in range(10, 16)]
    await samples.seed(units, *same_time)
    seen: list[str] = []
    cursor: str | None = None
    for number in range(20, 23):
        async with units() as unit:
            page = await unit.jobs.list("acme", [], 2, cursor)
            seen += [job.job_id for job in page.items]
            cursor = page.next_cursor
            await unit.jobs.add(samples.job(number, seconds=number))  # newer than all pages to come
            await unit.commit()
    assert seen == [f"job-{n}" for n in range(15, 9, -1)]
    assert cursor is None


@pytest.mark.parametrize(
    "cursor", ["", "!", "bm9uc2Vuc2U", "W10", "WzEsMl0", "WyJhIiwiYiJd", "WyIyMDI2LTAxLTAxIiwiYiJd"]
)
async def test_a_foreign_cursor_is_refused(units: UnitOfWorkFactory, cursor: str) -> None:
    async with units(write=False) as unit:
        with pytest.raises(InvalidArgument) as caught:
            await unit.jobs.list("acme", [], 2, cursor)
        assert caught.value.reason == Reason.INVALID_PAGE_TOKEN
        with pytest.raises(InvalidArgument):
            await unit.jobs.metrics(UID, 2, cursor)


async def test_deleting_a_job_takes_all_its_parts(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job())
    async with units() as unit:
        jobs = unit.jobs
        job = await jobs.get("acme", "job-1", for_update=True)
        assert job is not None
        await jobs.save(job, [JobEvent(samples.NOW, EventLevel.INFO, "hello")])
        await jobs.add_attempt(samples.attempt())
        await jobs.add_metrics(UID, [MetricPoint(1, {"loss": 1.0}, samples.NOW)])
        await jobs.add_checkpoint(UID, Checkpoint(1, 1, "k", 1, samples.NOW))
        await jobs.append_log(UID, 1, "text")
        await jobs.delete("acme", "job-1")
        assert await jobs.get("acme", "job-1") is None
        assert await jobs.events(UID, 0, 10) == []
        assert await jobs.get_attempt(UID, 1) is None
        assert (await jobs.metrics(UID, 10, None)).items == []
        assert (await jobs.checkpoints(UID, 10, None)).items == []
        assert await jobs.read_log(UID, 0, 10) == []


async def test_jobs_are_counted_by_state(units: UnitOfWorkFactory) -> None:
    async with units(write=False) as unit:
        assert await unit.jobs.counts() == dict.fromkeys(JobState, 0)
    ended = samples.job(3, state=JobState.FAILED)
    await samples.seed(units, samples.job(1), samples.job(2), ended)
    async with units(write=False) as unit:
        counts = await unit.jobs.counts()
    assert counts == {**dict.fromkeys(JobState, 0), JobState.QUEUED: 2, JobState.FAILED: 1}
