"""Jobs of every method: what they may read, what they start from, and what is chosen for them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.app.test_adapters import imported
from tests.server_fakes import TINY, World, submit, upload, validate, write_adapter

from trellis.artifacts import ADAPTER_FILES
from trellis.bases import read_base
from trellis.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Reason
from trellis.server.app import adapters, datasets, tuning_jobs
from trellis.server.app.job_preparation import prepare
from trellis.server.domain.adapter import Alias
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.dataset import DatasetVersion
from trellis.server.domain.tuning_job import Checkpoint, JobState, QueueCode, TuningJob
from trellis.spec import Distributed, Lora


def lines(kind: str, count: int = 20) -> bytes:
    def line(n: int) -> dict[str, object]:
        if kind == "text":
            return {"text": f"Text number {n}."}
        if kind == "preference":
            return {"prompt": f"Say {n}.", "chosen": str(n), "rejected": "No."}
        return {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": str(n)}]}

    return "".join(json.dumps(line(n)) + "\n" for n in range(count)).encode()


async def ready(world: World, base: BaseModel, kind: str, dataset: str = "questions") -> DatasetVersion:
    version = await upload(world.context, "acme", lines(kind), dataset)
    await validate(world.context, version, base)
    return version


async def wrong_fields(world: World, **changes: object) -> set[str]:
    with pytest.raises(InvalidArgument) as caught:
        await submit(world.context, "acme", **changes)
    assert all(violation.description.endswith((".", ".)")) for violation in caught.value.violations)
    return {violation.field.removeprefix("tuning_job.") for violation in caught.value.violations}


@pytest.mark.parametrize(
    ("method", "kind"), [("supervised", "chat"), ("preference", "preference"), ("pretraining", "text")]
)
async def test_a_method_takes_its_own_lines_and_chooses_what_was_not_given(
    world: World, base: BaseModel, method: str, kind: str
) -> None:
    await ready(world, base, kind)
    job = await submit(world.context, "acme", method=method, settings={"epochs": 2})
    assert (job.spec.method, job.spec.epochs, job.spec.auto) == (method, 2, ())
    told = {one.field: one.value for one in job.spec.resolved}
    path = job.spec.settings_path
    assert f"{path}.epochs" not in told
    assert told[f"{path}.learning_rate"] == f"{job.spec.learning_rate:g}"
    assert told[f"{path}.batch_size"] == "4"
    assert ("preference.beta" in told) is (method == "preference")


async def test_what_rules_choose_waits_for_the_report(world: World, base: BaseModel) -> None:
    version = await upload(world.context, "acme", lines("chat"))
    job = await submit(world.context, "acme", lora={"rank": 4})
    assert {"learning_rate", "epochs", "lora.alpha"} <= set(job.spec.auto)
    assert "lora.rank" not in job.spec.auto
    assert job.queue_reason is not None
    assert job.queue_reason.code is QueueCode.DATASET_VALIDATING
    async with world.context.units() as unit:
        assert await prepare(unit, job, world.context.settings.needs, world.context.now()) is None
    await validate(world.context, version, base)
    async with world.context.units() as unit:
        resolved = await prepare(unit, job, world.context.settings.needs, world.context.now())
        await unit.commit()
    assert resolved is not None
    assert (resolved.spec.auto, resolved.spec.lora) == ((), Lora(rank=4, alpha=8.0))
    assert resolved.spec.learning_rate == 5e-3
    async with world.context.units(write=False) as unit:
        assert await unit.jobs.get_by_uid(job.uid) == resolved
        assert await prepare(unit, resolved, world.context.settings.needs, world.context.now()) == resolved


async def test_a_job_that_left_the_queue_is_not_resolved(world: World, base: BaseModel) -> None:
    version = await upload(world.context, "acme", lines("chat"))
    job = await submit(world.context, "acme")
    await validate(world.context, version, base)
    async with world.context.units() as unit:
        present = await unit.jobs.get_by_uid(job.uid, for_update=True)
        assert present is not None
        await unit.jobs.save(present.moved(JobState.CANCELLED, world.context.now()))
        assert await prepare(unit, job, world.context.settings.needs, world.context.now()) is None


@pytest.mark.parametrize(
    ("method", "kind", "hint"),
    [
        ("supervised", "preference", "choose preference tuning"),
        ("preference", "chat", "choose supervised tuning"),
        ("pretraining", "chat", "Give it plain text"),
        ("preference", "text", "choose supervised tuning or pre-training"),
    ],
)
async def test_lines_of_another_kind_are_refused_with_what_to_do(
    world: World, base: BaseModel, method: str, kind: str, hint: str
) -> None:
    await ready(world, base, kind)
    with pytest.raises(FailedPrecondition, match=hint) as caught:
        await submit(world.context, "acme", method=method)
    assert caught.value.reason == Reason.DATASET_INVALID


async def test_replayed_lines_are_of_a_kind_that_fits(world: World, base: BaseModel) -> None:
    await ready(world, base, "text")
    general = await ready(world, base, "chat", "general")
    name = "tenants/acme/datasets/general"
    job = await submit(world.context, "acme", method="pretraining", replay_dataset=name)
    assert (job.spec.replay_dataset, job.spec.replay_sha256) == (general.name, general.sha256)
    assert (job.spec.replay_format, job.spec.replay_fraction) == ("jsonl", 0.1)
    assert "pretraining.training.replay_fraction" in {one.field for one in job.spec.resolved}
    await ready(world, base, "preference", "pairs")
    with pytest.raises(FailedPrecondition, match="can't learn from"):
        await submit(world.context, "acme", replay_dataset="tenants/acme/datasets/pairs")
    with pytest.raises(NotFound):
        await submit(world.context, "acme", replay_dataset="tenants/acme/datasets/none")
    with pytest.raises(PermissionDenied):
        await submit(world.context, "acme", replay_dataset="tenants/globex/datasets/general")


async def test_what_can_only_run_by_itself_does(world: World, base: BaseModel) -> None:
    await ready(world, base, "chat")
    assert (await submit(world.context, "acme")).spec.distributed is None
    full = await submit(world.context, "acme", settings={"full": True})
    assert (full.spec.distributed, full.spec.lora) == (Distributed(), Lora())
    assert not [one for one in full.spec.resolved if "lora" in one.field]
    roomy = replace(world.context, settings=replace(world.context.settings, capacity_cpus=3.0))
    spread = await submit(roomy, "acme", distributed={"workers": 3, "zero_stage": 2})
    assert spread.spec.distributed == Distributed(workers=3, zero_stage=2)
    assert spread.spec.batch_size % 3 == 0
    assert await wrong_fields(world, settings={"quantization": "nf4"}) == {"supervised.quantization"}
    with_gpus = replace(world.context, settings=replace(world.context.settings, capacity_gpus=1.0))
    assert (await submit(with_gpus, "acme", settings={"quantization": "nf4"})).spec.distributed == Distributed()


async def test_wrong_fields_are_named_by_their_paths(world: World, base: BaseModel) -> None:
    assert await wrong_fields(
        world, method="preference", preference={"beta": -1.0}, settings={"epochs": 0}, distributed={"workers": 0}
    ) == {"preference.beta", "preference.training.epochs", "distributed.workers"}
    assert await wrong_fields(world, settings={"full": True}, lora={"rank": 2}) == {"supervised.lora"}
    assert await wrong_fields(world, initial_adapter="tenants/acme/adapters/x") == {"initial_adapter"}
    alias = "tenants/acme/aliases/mine"
    assert await wrong_fields(world, settings={"full": True}, alias=alias, deploy=True) == {"alias", "deploy"}
    assert await wrong_fields(world, settings={"replay_fraction": 0.5}) == {"supervised.replay_fraction"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", read_base(str(TINY)))


async def test_a_job_starts_from_an_adapter_or_an_alias_and_has_its_shape(
    world: World, base: BaseModel, folder: Path
) -> None:
    await ready(world, base, "chat")
    adapter = await imported(world, folder)
    async with world.context.units() as unit:
        await unit.adapters.put_alias(Alias("acme", "mine", adapter.digest, world.context.now()))
        await unit.commit()
    for name in (adapter.name, "tenants/acme/aliases/mine"):
        job = await submit(world.context, "acme", initial_adapter=name, lora={"dropout": 0.1})
        assert (job.spec.initial_adapter, job.spec.initial_key) == (adapter.name, adapter.key)
        assert job.spec.lora == Lora(2, 4.0, 0.1, ("q_proj",))
        assert 0 < job.adapted_share < 0.25, "counted by what the adapter adapts"
        assert not {"supervised.lora.rank", "supervised.lora.alpha"} & {one.field for one in job.spec.resolved}
    same = {"rank": 2, "alpha": 4.0, "target_modules": ("q_proj",)}
    assert (await submit(world.context, "acme", initial_adapter=adapter.name, lora=same)).spec.lora.rank == 2
    other = {"rank": 4, "alpha": 5.0, "target_modules": ("v_proj",)}
    assert await wrong_fields(world, initial_adapter=adapter.name, lora=other) == {
        "supervised.lora.rank",
        "supervised.lora.alpha",
        "supervised.lora.target_modules",
    }
    assert await wrong_fields(world, initial_adapter=adapter.name, settings={"full": True}) == {"initial_adapter"}


async def with_checkpoint(world: World, job: TuningJob, folder: Path) -> str:
    """A checkpoint of the job, of which the folder is the adapter; its key."""
    key = f"tenants/acme/jobs/{job.uid}/checkpoints/step-00000050-attempt-1"
    for name in ADAPTER_FILES:
        world.store.put_file(f"{key}/{name}", folder / name)
    async with world.context.units() as unit:
        await unit.jobs.add_checkpoint(job.uid, Checkpoint(50, 1, key, 100, world.context.now()))
        await unit.commit()
    return key


async def test_a_job_starts_from_a_checkpoint_of_another(world: World, base: BaseModel, folder: Path) -> None:
    await ready(world, base, "chat")
    first = await submit(world.context, "acme")
    key = await with_checkpoint(world, first, folder)
    job = await submit(world.context, "acme", initial_adapter=f"{first.name}/checkpoints/50")
    assert (job.spec.initial_adapter, job.spec.initial_key) == (f"{first.name}/checkpoints/50", key)
    assert job.spec.lora == Lora(2, 4.0, 0.0, ("q_proj",))
    world.store.delete_prefix(key)  # as one of a job that trains all weights, which has no adapter
    assert await wrong_fields(world, initial_adapter=f"{first.name}/checkpoints/50") == {"initial_adapter"}
    for missing in (f"{first.name}/checkpoints/51", "tenants/acme/tuningJobs/none/checkpoints/50"):
        with pytest.raises(NotFound):
            await submit(world.context, "acme", initial_adapter=missing)


async def test_what_a_job_cannot_start_from_is_refused(world: World, base: BaseModel, folder: Path) -> None:
    await ready(world, base, "chat")
    adapter = await imported(world, folder)
    config = json.loads((folder / "adapter_config.json").read_bytes())
    for change in ({"rank_pattern": {"q_proj": 1}}, {"target_modules": ".*q_proj"}, {"use_dora": True}):
        world.store.put_bytes(f"{adapter.key}/adapter_config.json", json.dumps({**config, **change}).encode())
        assert await wrong_fields(world, initial_adapter=adapter.name) == {"initial_adapter"}
    world.store.put_bytes(
        f"{adapter.key}/adapter_config.json", json.dumps({**config, "use_rslora": True, "r": 4}).encode()
    )
    assert (await submit(world.context, "acme", initial_adapter=adapter.name)).spec.lora.alpha == 8.0  # 4 / √4 · 4
    async with world.context.units() as unit:
        await unit.base_models.add(replace(base, base_model_id="other", is_default=False))
        await unit.commit()
    fields = await wrong_fields(world, initial_adapter=adapter.name, base_model="baseModels/other")
    assert fields == {"initial_adapter"}
    with pytest.raises(NotFound):
        await submit(world.context, "acme", initial_adapter="tenants/acme/aliases/none")
    with pytest.raises(PermissionDenied):
        await submit(world.context, "acme", initial_adapter="tenants/globex/adapters/" + "0" * 24)


async def test_what_a_waiting_job_needs_is_not_deleted(world: World, base: BaseModel, folder: Path) -> None:
    await ready(world, base, "chat")
    await ready(world, base, "text", "general")
    adapter = await imported(world, folder)
    job = await submit(
        world.context, "acme", initial_adapter=adapter.name, replay_dataset="tenants/acme/datasets/general"
    )
    for delete, name in (
        (adapters.delete_adapter, adapter.name),
        (datasets.delete_dataset, "tenants/acme/datasets/general"),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            await delete(world.context, name, "")
        assert caught.value.reason == Reason.RESOURCE_IN_USE
    await tuning_jobs.cancel_tuning_job(world.context, job.name)
    await adapters.delete_adapter(world.context, adapter.name, "")
    await datasets.delete_dataset(world.context, "tenants/acme/datasets/general", "")
