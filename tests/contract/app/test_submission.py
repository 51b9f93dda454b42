"""Jobs: submitted, refused, listed, cancelled, deleted."""

import asyncio
import math

import pytest
from tests.server_fakes import LINES, TINY, World, keys, submit, upload, validate

from trellis.bases import read_base
from trellis.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Reason, TrellisError
from trellis.server.app import base_models, tuning_jobs
from trellis.server.app.base_models import NewBaseModel
from trellis.server.app.idempotency import RequestKey
from trellis.server.app.job_request import NewTuningJob
from trellis.server.app.pages import PageQuery
from trellis.server.app.submission import create_tuning_job
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.tuning_job import JobState, QueueCode

DATASET = "tenants/acme/datasets/questions"


async def test_a_job_shows_all_that_it_was_resolved_to(world: World, base: BaseModel) -> None:
    version = await upload(world.context, "acme")
    job = await submit(world.context, "acme", lora={"rank": 4}, settings={"epochs": 1}, display_name="mine")
    spec = job.spec
    assert (spec.training_dataset, spec.training_sha256) == (version.name, version.sha256)
    assert (spec.base_model, spec.base_revision) == (base.name, base.revision)
    assert (spec.lora.rank, spec.lora.alpha, spec.epochs, spec.context_length) == (4, 8.0, 1, base.context_length)
    assert job.queue_reason is not None
    assert (job.state, job.queue_reason.code) == (JobState.QUEUED, QueueCode.DATASET_VALIDATING)
    await validate(world.context, version, base)
    ready = await submit(world.context, "acme")
    assert ready.queue_reason is not None
    assert ready.queue_reason.code is QueueCode.NOT_CONSIDERED
    assert (await tuning_jobs.get_tuning_job(world.context, ready.name)) == ready


async def test_a_job_is_counted_by_the_linears_that_it_adapts(world: World, base: BaseModel) -> None:
    await upload(world.context, "acme")
    shapes = read_base(str(TINY)).linear_shapes
    adapted = sum(sum(shape) for path, shape in shapes.items() if path.endswith((".q_proj", ".v_proj")))
    narrow = await submit(world.context, "acme", lora={"target_modules": ("q_proj", "self_attn.v_proj", "v_proj")})
    assert narrow.adapted_share == adapted / sum(map(sum, shapes.values()))
    assert (await tuning_jobs.get_tuning_job(world.context, narrow.name)).adapted_share == narrow.adapted_share
    assert (await submit(world.context, "acme")).adapted_share == 1.0


async def test_all_wrong_fields_are_said_at_once(world: World, base: BaseModel) -> None:
    wrong = NewTuningJob(
        "tenants/acme",
        "tenants/acme/datasets/../secret",
        job_id="A",
        settings={"learning_rate": math.nan, "epochs": 0},
        lora={"rank": 10_000, "target_modules": ("nonesuch",)},
    )
    with pytest.raises(InvalidArgument) as caught:
        await create_tuning_job(world.context, world.member("acme"), wrong, RequestKey())
    assert {violation.field.rpartition(".")[2] for violation in caught.value.violations} == {
        "tuning_job_id", "training_dataset", "learning_rate", "epochs", "rank", "target_modules"
    }  # fmt: skip


async def test_other_tenants_names_are_refused_before_anything_else(world: World, base: BaseModel) -> None:
    foreign = "tenants/globex/datasets/questions"
    await upload(world.context, "globex")
    for new in (
        NewTuningJob("tenants/acme", foreign),
        NewTuningJob("tenants/acme", DATASET, validation_dataset="tenants/globex/datasets/none"),
        NewTuningJob("tenants/acme", DATASET, alias="tenants/globex/aliases/a"),
    ):
        with pytest.raises(PermissionDenied):
            await create_tuning_job(world.context, world.member("acme"), new, RequestKey())


async def test_what_is_missing_or_wrong_is_named(world: World, base: BaseModel) -> None:
    with pytest.raises(NotFound):
        await submit(world.context, "acme")
    await upload(world.context, "acme")
    with pytest.raises(FailedPrecondition) as caught:
        await submit(world.context, "acme", base_model="baseModels/none")
    assert caught.value.reason == Reason.BASE_MODEL_UNAVAILABLE
    bad = b'{"messages": [{"role": "user", "content": "no answer"}]}\n'
    await validate(world.context, await upload(world.context, "acme", LINES), base)
    found = await validate(world.context, await upload(world.context, "acme", bad), base)
    assert not found.valid
    with pytest.raises(FailedPrecondition) as caught:
        await submit(world.context, "acme")
    assert caught.value.reason == Reason.DATASET_INVALID


async def test_repeated_submissions_make_one_job(world: World, base: BaseModel) -> None:
    await upload(world.context, "acme")
    new, key = NewTuningJob("tenants/acme", DATASET), RequestKey("again", "f")
    made = await asyncio.gather(*(create_tuning_job(world.context, world.member("acme"), new, key) for _ in range(6)))
    assert len({job.uid for job in made}) == 1
    page = await tuning_jobs.list_tuning_jobs(world.context, "tenants/acme", (), PageQuery())
    assert len(page.items) == 1


async def test_lists_are_of_a_tenant_or_of_all(world: World, base: BaseModel) -> None:
    for tenant in ("acme", "globex"):
        await upload(world.context, tenant)
        await submit(world.context, tenant)
    for parent, count in (("tenants/acme", 1), ("tenants/-", 2)):
        assert len((await tuning_jobs.list_tuning_jobs(world.context, parent, (), PageQuery())).items) == count
    page = await tuning_jobs.list_tuning_jobs(world.context, "tenants/-", (), PageQuery(1))
    query = PageQuery(1, page.next_page_token)
    with pytest.raises(InvalidArgument):
        await tuning_jobs.list_tuning_jobs(world.context, "tenants/-", (JobState.QUEUED,), query)


async def test_a_waiting_job_is_cancelled_at_once_and_then_deleted(world: World, base: BaseModel) -> None:
    await upload(world.context, "acme")
    job = await submit(world.context, "acme")
    with pytest.raises(FailedPrecondition) as caught:
        await tuning_jobs.delete_tuning_job(world.context, job.name, "")
    assert caught.value.reason == Reason.INVALID_STATE
    assert (await tuning_jobs.cancel_tuning_job(world.context, job.name)).state is JobState.CANCELLED
    assert (await tuning_jobs.cancel_tuning_job(world.context, job.name)).state is JobState.CANCELLED
    with pytest.raises(TrellisError) as stale:
        await tuning_jobs.delete_tuning_job(world.context, job.name, "stale")
    assert stale.value.reason == Reason.ETAG_MISMATCH
    world.store.put_bytes(f"tenants/acme/jobs/{job.uid}/checkpoints/x", b"1")
    await tuning_jobs.delete_tuning_job(world.context, job.name, "")
    assert not [key for key in keys(world.store) if "/jobs/" in key]
    with pytest.raises(NotFound):
        await tuning_jobs.get_tuning_job(world.context, job.name)


async def test_a_base_model_must_be_one_and_must_not_be_needed(world: World, base: BaseModel) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await base_models.create_base_model(world.context, NewBaseModel("x", "", "/nonesuch/folder"), RequestKey())
    assert caught.value.reason == Reason.BASE_MODEL_INVALID
    assert base.is_default
    await upload(world.context, "acme")
    await submit(world.context, "acme")
    with pytest.raises(FailedPrecondition) as used:
        await base_models.delete_base_model(world.context, base.name, "")
    assert used.value.reason == Reason.RESOURCE_IN_USE
