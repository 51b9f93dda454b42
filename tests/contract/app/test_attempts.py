"""An attempt's whole life, its fences, and what watchers see of it."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.server_fakes import World, admit, collected, keys, lay_adapter, submit, upload, used, validate

from trellis.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Reason, TrellisError
from trellis.server.app import (
    adapters,
    attempts,
    checkpoints,
    completion,
    keys as job_keys,
    progress,
    tuning_jobs,
    watch,
)
from trellis.server.app.attempt_end import end_attempt
from trellis.server.app.attempt_usage import AttemptUsage
from trellis.server.app.attempts import Assignment, Process
from trellis.server.app.completion import Completion
from trellis.server.app.explanations import explain_tuning_job
from trellis.server.app.pages import PageQuery
from trellis.server.app.progress import AttemptReport, CommittedCheckpoint, WorkerEvent
from trellis.server.domain.adapter import Deployment
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller
from trellis.server.domain.ledger import Meter
from trellis.server.domain.stop import Stop
from trellis.server.domain.tuning_job import (
    EndCause,
    Evaluation,
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    MetricPoint,
    Progress,
    StopRequest,
    TuningJob,
)
from trellis.server.rpc.convert.explanation import explanation
from trellis.server.rpc.convert.tuning_job import tuning_job

LOST = JobError(Reason.TRAINING_FAILED, "The process died.")


async def running(world: World, base: BaseModel, **changes: object) -> tuple[TuningJob, Caller, Assignment]:
    await validate(world.context, await upload(world.context, "acme"), base)
    job = await submit(world.context, "acme", **changes)
    _, caller = await admit(world.context, job)
    work = await attempts.start_attempt(world.context, caller, Process("1", "host", 1))
    return job, caller, work


async def events_of(world: World, job: TuningJob, after: int = 0) -> list[JobEvent]:
    async with world.context.units(write=False) as unit:
        return list(await unit.jobs.events(job.uid, after, 1000))


def points(world: World, *steps: int) -> list[MetricPoint]:
    return [MetricPoint(step, {"train_loss": 1.0 / (step + 1)}, world.clock.now()) for step in steps]


async def fenced(call: object) -> None:
    with pytest.raises(Aborted) as caught:
        await call  # type: ignore[misc]
    assert caught.value.reason == Reason.ATTEMPT_FENCED


async def test_an_attempt_that_ends_well(world: World, base: BaseModel, tmp_path: Path) -> None:
    alias = "tenants/acme/aliases/support"
    job, caller, work = await running(world, base, alias=alias, deploy=True)
    assert await attempts.start_attempt(world.context, caller, Process()) == work
    assert (work.attempt, work.next_report, work.resume_key, work.store_url) == (1, 1, "", world.store.url)
    assert world.store.exists(work.training_key)

    key = f"{work.checkpoint_prefix}/step-2"
    report = AttemptReport(
        1,
        Progress(2, 10, "training", 0.5, 4.0, 99),
        points(world, 1, 2),
        [WorkerEvent(EventLevel.INFO, "Hello\x00.", world.clock.now())],
        [CommittedCheckpoint(2, key, 5)],
        "line one\n",
    )
    assert await progress.report_attempt(world.context, caller, report) is None
    before = await events_of(world, job)
    await progress.report_attempt(world.context, caller, report)
    assert await events_of(world, job) == before
    with pytest.raises(InvalidArgument):
        await progress.report_attempt(world.context, caller, AttemptReport(3))

    digest = lay_adapter(world.context, work, tmp_path / "a")
    nothing = Evaluation(0.0, 0.0, 0.0, 0, 0)
    done = Completion(digest, "", nothing, nothing, AttemptUsage(99, 1.5))
    name = await completion.complete_attempt(world.context, caller, done)
    assert await completion.complete_attempt(world.context, caller, done) == name
    ended = await tuning_jobs.get_tuning_job(world.context, job.name)
    assert (ended.state, ended.adapter_digest) == (JobState.SUCCEEDED, digest)
    assert (ended.base_evaluation, ended.tuned_evaluation, ended.warnings) == (None, None, ()), "nothing was held out"
    adapter = await adapters.get_adapter(world.context, name)
    assert (adapter.deployment, adapter.rank, adapter.tuning_job) == (Deployment.DEPLOYING, 2, job.name)
    assert (await adapters.get_alias(world.context, alias)).adapter_digest == digest
    totals = await used(world.context, "acme")
    assert totals == {Meter.TRAINED_TOKENS: 99, Meter.ACCELERATOR_MILLISECONDS: 3000}
    await fenced(progress.report_attempt(world.context, caller, AttemptReport(2)))
    assert [event.sequence for event in await events_of(world, job)] == list(range(1, ended.event_count + 1))


async def test_an_adapter_that_is_worse_than_the_base_is_kept_and_told(
    world: World, base: BaseModel, tmp_path: Path
) -> None:
    job, caller, work = await running(world, base)
    key = f"{work.checkpoint_prefix}/step-2"
    report = AttemptReport(1, Progress(2, 10, "training"), checkpoints=[CommittedCheckpoint(2, key, 5, 1.25)])
    await progress.report_attempt(world.context, caller, report)
    digest = lay_adapter(world.context, work, tmp_path / "a")
    done = Completion(digest, "", Evaluation(1.5, 0.5, 0.0, 9, 0), Evaluation(2.5, 0.25, 0.0, 9, 0))
    await completion.complete_attempt(world.context, caller, done)
    ended = await tuning_jobs.get_tuning_job(world.context, job.name)
    assert (ended.state, ended.adapter_digest) == (JobState.SUCCEEDED, digest)
    worse, passed = ended.warnings
    assert worse.startswith(
        "Held-out loss rose from 1.5 with the base model to 2.5: the adapter is worse than the base"
    )
    assert passed.startswith("Held-out loss was 1.25 after step 2, and is 2.5 at the end.")
    events = await events_of(world, job)
    assert [(one.level, one.message) for one in events[-2:]] == [(EventLevel.WARNING, said) for said in ended.warnings]
    told = await explain_tuning_job(world.context, job.name)
    assert list(explanation(told).warnings) == list(tuning_job(ended).warnings) == [worse, passed]


@pytest.mark.parametrize(
    "change",
    [{"base_revision": "other"}, {"tuning_job": "tenants/acme/tuningJobs/x"}, {"files": {}}],
    ids=lambda change: next(iter(change)),
)
async def test_an_adapter_of_another_origin_is_refused(
    world: World, base: BaseModel, tmp_path: Path, change: dict[str, object]
) -> None:
    _, caller, work = await running(world, base)
    digest = lay_adapter(world.context, work, tmp_path / "a", **change)
    with pytest.raises(FailedPrecondition) as caught:
        await completion.complete_attempt(world.context, caller, Completion(digest))
    assert caught.value.reason == Reason.ADAPTER_INVALID


async def test_files_that_are_not_the_manifests_are_refused(world: World, base: BaseModel, tmp_path: Path) -> None:
    job, caller, work = await running(world, base)
    for digest in ("0" * 64, lay_adapter(world.context, work, tmp_path / "a")):
        world.store.put_bytes(f"{work.adapter_prefix}/adapter_model.safetensors", b"\x80\x04pickle")
        with pytest.raises(FailedPrecondition) as caught:
            await completion.complete_attempt(world.context, caller, Completion(digest))
        assert caught.value.reason == Reason.ADAPTER_INVALID
    assert (await tuning_jobs.get_tuning_job(world.context, job.name)).state is JobState.RUNNING


async def test_the_next_attempt_resumes_and_repeats_nothing(world: World, base: BaseModel) -> None:
    job, caller, work = await running(world, base)
    key = f"{work.checkpoint_prefix}/step-2"
    first = AttemptReport(1, Progress(3, 10, "training"), points(world, 1, 2, 3), (), [CommittedCheckpoint(2, key, 5)])
    await progress.report_attempt(world.context, caller, first)
    await attempts.fail_attempt(world.context, caller, LOST, EndCause.INFRASTRUCTURE)
    await fenced(attempts.fail_attempt(world.context, caller, LOST, EndCause.INFRASTRUCTURE))

    _, second = await admit(world.context, job)
    await fenced(progress.report_attempt(world.context, caller, replace(first, number=2)))
    resumed = await attempts.start_attempt(world.context, second, Process())
    assert (resumed.resume_key, resumed.resume_step, resumed.next_report) == (key, 2, 1)
    assert resumed.job_create_time == work.job_create_time == job.create_time
    await fenced(attempts.start_attempt(world.context, caller, Process()))
    again = AttemptReport(1, Progress(4, 10, "training"), points(world, 3, 4))
    await progress.report_attempt(world.context, second, again)
    steps = [event.metrics.step for event in await events_of(world, job) if event.metrics]
    assert steps == [1, 2, 3, 4]
    page = await tuning_jobs.list_metrics(world.context, job.name, PageQuery())
    assert [point.step for point in page.items] == [1, 2, 3, 4]
    listed = await checkpoints.list_checkpoints(world.context, job.name, PageQuery())
    assert [found.checkpoint.key for found in listed.items] == [key]


async def test_late_values_of_the_same_step_are_news(world: World, base: BaseModel) -> None:
    job, caller, _ = await running(world, base)
    await progress.report_attempt(world.context, caller, AttemptReport(1, metrics=points(world, 5)))
    late = MetricPoint(5, {"train_loss": 9.0, "valid_loss": 2.0}, world.clock.now())
    await progress.report_attempt(world.context, caller, AttemptReport(2, metrics=[late]))
    assert [dict(e.metrics.values) for e in await events_of(world, job) if e.metrics][1:] == [{"valid_loss": 2.0}]


async def test_a_job_gives_up_after_so_many_attempts(world: World, base: BaseModel) -> None:
    job, caller, _ = await running(world, base)
    for _ in range(world.context.settings.retry.max_attempts - 1):
        await attempts.fail_attempt(world.context, caller, LOST, EndCause.INFRASTRUCTURE)
        assert (await tuning_jobs.get_tuning_job(world.context, job.name)).state is JobState.QUEUED
        _, caller = await admit(world.context, job)
    await attempts.fail_attempt(world.context, caller, LOST, EndCause.INFRASTRUCTURE)
    failed = await tuning_jobs.get_tuning_job(world.context, job.name)
    assert failed.error is not None
    assert (failed.state, failed.error.reason) == (JobState.FAILED, Reason.ATTEMPTS_EXHAUSTED)


async def test_a_running_job_hears_that_it_is_cancelled(world: World, base: BaseModel) -> None:
    job, caller, _ = await running(world, base)
    assert (await tuning_jobs.cancel_tuning_job(world.context, job.name)).state is JobState.CANCELLING
    stop = await progress.report_attempt(world.context, caller, AttemptReport(1))
    assert stop == Stop(StopRequest.CANCEL, world.clock.now() + world.context.settings.graces.cancel)
    await attempts.fail_attempt(world.context, caller, LOST, EndCause.CANCELLED)
    assert (await tuning_jobs.get_tuning_job(world.context, job.name)).state is JobState.CANCELLED


async def test_what_attempts_used_is_counted_once_however_they_end(world: World, base: BaseModel) -> None:
    job, caller, _ = await running(world, base)
    report = AttemptReport(1, usage=AttemptUsage(100, 2.0))
    await progress.report_attempt(world.context, caller, report)
    await progress.report_attempt(world.context, caller, report)
    await progress.report_attempt(world.context, caller, AttemptReport(2, usage=AttemptUsage(90, float("nan"))))
    async with world.context.units() as unit:
        present = await unit.jobs.get_by_uid(job.uid, for_update=True)
        attempt = await unit.jobs.get_attempt(job.uid, 1)
        assert present is not None
        assert attempt is not None
        now, policy = world.clock.now(), world.context.settings.retry
        await end_attempt(unit, present, attempt, LOST, cause=EndCause.INFRASTRUCTURE, now=now, policy=policy)
        await unit.commit()
    await fenced(progress.report_attempt(world.context, caller, AttemptReport(3, usage=AttemptUsage(500, 9.0))))
    _, second = await admit(world.context, job)
    await attempts.start_attempt(world.context, second, Process())
    await attempts.fail_attempt(world.context, second, LOST, EndCause.USER, AttemptUsage(50, 0.5))
    ended = await tuning_jobs.get_tuning_job(world.context, job.name)
    assert (ended.used_tokens, ended.used_seconds) == (150, 2.5)
    totals = await used(world.context, "acme")
    assert totals == {Meter.TRAINED_TOKENS: 150, Meter.ACCELERATOR_MILLISECONDS: 5000}


async def test_a_checkpoint_lies_where_it_was_told_to(world: World, base: BaseModel) -> None:
    _, caller, work = await running(world, base)
    for key in ("tenants/globex/jobs/x", f"{work.checkpoint_prefix}/../../x", work.checkpoint_prefix):
        report = AttemptReport(1, checkpoints=[CommittedCheckpoint(1, key, 1)])
        with pytest.raises(InvalidArgument):
            await progress.report_attempt(world.context, caller, report)


async def test_failures_are_forgotten_when_the_job_comes_further(world: World, base: BaseModel) -> None:
    job, caller, _ = await running(world, base)
    for number, (step, failures) in enumerate([(50, 0), (50, 1), (100, 0)], start=1):
        key = f"{job_keys.checkpoint_prefix(job.tenant, job.uid)}/step-{step:08d}-attempt-{number}"
        report = AttemptReport(1, checkpoints=[CommittedCheckpoint(step, key, 1)])
        await progress.report_attempt(world.context, caller, report)
        assert (await tuning_jobs.get_tuning_job(world.context, job.name)).failure_count == failures
        await attempts.fail_attempt(world.context, caller, LOST, EndCause.INFRASTRUCTURE)
        world.clock.advance(60)
        _, caller = await admit(world.context, await tuning_jobs.get_tuning_job(world.context, job.name))
        await attempts.start_attempt(world.context, caller, Process("1", "host", 1))


async def test_a_report_renews_the_lease(world: World, base: BaseModel) -> None:
    job, caller, _ = await running(world, base)
    world.clock.advance(20)
    await progress.report_attempt(world.context, caller, AttemptReport(1))
    async with world.context.units(write=False) as unit:
        attempt = await unit.jobs.get_attempt(job.uid, 1)
    assert attempt is not None
    assert attempt.lease_expire_time == world.clock.now() + world.context.settings.lease


async def test_a_watch_gives_every_event_once_and_ends_with_the_last(world: World, base: BaseModel) -> None:
    job, caller, _ = await running(world, base)

    async def report() -> None:
        await progress.report_attempt(world.context, caller, AttemptReport(1, metrics=points(world, 1), log_text="a\n"))

    async def fail() -> None:
        await attempts.fail_attempt(world.context, caller, LOST, EndCause.USER)

    world.waiter.steps = [report, fail]
    seen = [event for _, event in await collected(watch.watch_tuning_job(world.context, job.name, 0))]
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen == await events_of(world, job)
    assert seen[-1].state is JobState.FAILED
    resumed = await collected(watch.watch_tuning_job(world.context, job.name, 2))
    assert [event for _, event in resumed] == seen[2:]
    pieces = await collected(watch.read_log(world.context, job.name, 0, follow=True))
    assert [(piece.text, piece.attempt) for piece in pieces] == [("a\n", 1)]
    with pytest.raises(InvalidArgument):
        await collected(watch.watch_tuning_job(world.context, job.name, -1))
    with pytest.raises(NotFound):
        await collected(watch.watch_tuning_job(world.context, "tenants/acme/tuningJobs/none", 0))


async def test_a_job_that_succeeded_leaves_its_adapter_when_deleted(
    world: World, base: BaseModel, tmp_path: Path
) -> None:
    job, caller, work = await running(world, base)
    digest = lay_adapter(world.context, work, tmp_path / "a")
    name = await completion.complete_attempt(world.context, caller, Completion(digest))
    await tuning_jobs.delete_tuning_job(world.context, job.name, "")
    assert (await adapters.get_adapter(world.context, name)).key == work.adapter_prefix
    await adapters.delete_adapter(world.context, name, "")
    assert not [key for key in keys(world.store) if "/adapters/" in key]
    with pytest.raises(TrellisError):
        await adapters.get_adapter(world.context, name)
