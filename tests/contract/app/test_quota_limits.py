"""What a quota has no room for is refused with the numbers, exactly, however many ask at once on however many servers."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.app.test_adapters import imported
from tests.contract.app.test_attempts import running
from tests.contract.app.test_checkpoints import Run
from tests.server_fakes import (
    LINES,
    TINY,
    World,
    announced,
    chunked,
    keys,
    lay_adapter,
    submit,
    upload,
    write_adapter,
)

from trellis.bases import read_base
from trellis.errors import Reason, TrellisError
from trellis.server.app import adapters, completion, datasets, exports, promotion, stopping, tuning_jobs, uploads
from trellis.server.app.completion import Completion
from trellis.server.app.context import Context
from trellis.server.app.exports import NewExport
from trellis.server.app.idempotency import RequestKey
from trellis.server.app.job_request import NewTuningJob
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.submission import create_tuning_job
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.export import export_size
from trellis.server.domain.quota import Quota
from trellis.server.domain.tuning_job import EventLevel

SIZE = len(LINES)


@pytest.fixture
def servers(world: World, other_units: UnitOfWorkFactory) -> tuple[Context, Context]:
    """Two servers on one database."""
    return world.context, replace(world.context, units=other_units)


async def limit(world: World, **limits: Any) -> None:
    async with world.context.units() as unit:
        tenant = await unit.tenants.get("acme", for_update=True)
        assert tenant is not None
        await unit.tenants.save(replace(tenant, quota=Quota(**limits)))
        await unit.commit()


async def refused(call: Awaitable[Any]) -> TrellisError:
    with pytest.raises(TrellisError) as caught:
        await call
    return caught.value


def said(error: TrellisError) -> tuple[str, str, float, float, float]:
    """Why, by which limit, and its numbers: allowed, used and asked."""
    [violation] = error.quota_violations
    assert violation.subject == "tenants/acme"
    assert violation.description == str(error)
    numbers = (violation.allowed, violation.used, violation.asked)
    assert [error.metadata[name] for name in ("allowed", "used", "asked")] == [f"{number:.15g}" for number in numbers]
    return error.reason, violation.limit, *numbers


async def outcomes(calls: Sequence[Awaitable[Any]]) -> tuple[int, list[TrellisError]]:
    """How many calls at once went through, and what the others were told."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    errors = [one for one in done if isinstance(one, BaseException)]
    assert all(isinstance(error, TrellisError) for error in errors), errors
    return len(done) - len(errors), errors  # type: ignore[return-value]


def different(number: int) -> bytes:
    """A file as large as every other one."""
    return LINES.replace(b"Say 1.", f"Say {number % 10}!".encode()).replace(b"Say 2.", f"Do {number:02}.".encode())


async def adapter(world: World, folder: Path, number: int) -> Adapter:
    """An adapter that is another one for each number, and as large."""
    made = write_adapter(folder / str(number), read_base(str(TINY)), scale=1.0 + number)
    return await imported(world, made)


async def test_jobs_are_taken_up_to_the_limit_and_again_when_one_has_ended(world: World, base: BaseModel) -> None:
    await upload(world.context, "acme")
    await limit(world, open_jobs=2)
    first, second = [await submit(world.context, "acme") for _ in range(2)]
    await stopping.pause_tuning_job(world.context, second.name)
    error = await refused(submit(world.context, "acme"))
    assert said(error) == (Reason.QUOTA_EXCEEDED, "open_jobs", 2, 2, 1)
    assert error.retry_after is not None
    # A job that is paused was counted all the time.
    await stopping.resume_tuning_job(world.context, second.name)
    await tuning_jobs.cancel_tuning_job(world.context, first.name)
    await submit(world.context, "acme")
    assert said(await refused(submit(world.context, "acme")))[0] == Reason.QUOTA_EXCEEDED
    await limit(world, open_jobs=0)
    assert said(await refused(submit(world.context, "acme"))) == (Reason.NEVER_FITS, "open_jobs", 0, 0, 1)


async def test_a_repeated_submit_is_answered_though_there_is_no_room(world: World, base: BaseModel) -> None:
    await upload(world.context, "acme")
    await limit(world, open_jobs=1)
    new = NewTuningJob("tenants/acme", "tenants/acme/datasets/questions")
    first, again = [
        await create_tuning_job(world.context, world.member("acme"), new, RequestKey("once", "f")) for _ in range(2)
    ]
    assert first.name == again.name


async def test_of_many_submits_at_once_as_many_go_through_as_there_is_room_for(
    world: World, base: BaseModel, servers: tuple[Context, Context]
) -> None:
    await upload(world.context, "acme")
    await limit(world, open_jobs=3)
    done, errors = await outcomes([submit(servers[number % 2], "acme") for number in range(12)])
    assert done == 3
    assert {said(error) for error in errors} == {(Reason.QUOTA_EXCEEDED, "open_jobs", 3, 3, 1)}


async def test_files_are_taken_up_to_the_last_byte(world: World, base: BaseModel) -> None:
    await limit(world, dataset_bytes=SIZE - 1)
    error = await refused(upload(world.context, "acme"))
    assert said(error) == (Reason.NEVER_FITS, "dataset_bytes", SIZE - 1, 0, SIZE)
    assert not keys(world.store)
    await limit(world, dataset_bytes=2 * SIZE - 1)
    version = await upload(world.context, "acme")
    assert await upload(world.context, "acme") == version
    error = await refused(upload(world.context, "acme", dataset="others"))
    assert said(error) == (Reason.QUOTA_EXCEEDED, "dataset_bytes", 2 * SIZE - 1, SIZE, SIZE)
    assert error.retry_after is None
    # Nothing is left of what was refused, not even the dataset that it would have made.
    assert [key.split("/")[3] for key in keys(world.store)] == ["questions"]
    await limit(world, dataset_bytes=2 * SIZE)
    await upload(world.context, "acme", dataset="others")
    await datasets.delete_dataset(world.context, "tenants/acme/datasets/others", "")
    await upload(world.context, "acme", different(3))


async def test_what_is_on_its_way_counts_once_and_goes_on(world: World, base: BaseModel) -> None:
    await limit(world, dataset_bytes=SIZE)
    whole = announced("acme", LINES)
    cut = await refused(uploads.upload_dataset_version(world.context, whole, chunked(LINES[:600])))
    assert cut.reason == Reason.UPLOAD_INCOMPLETE
    error = await refused(upload(world.context, "acme", different(3), dataset="others"))
    assert said(error) == (Reason.QUOTA_EXCEEDED, "dataset_bytes", SIZE, SIZE, SIZE)
    rest = replace(whole, offset=600)
    version = await uploads.upload_dataset_version(world.context, rest, chunked(LINES[600:]))
    assert version.size_bytes == SIZE


async def test_of_many_uploads_at_once_as_many_go_through_as_there_is_room_for(
    world: World, base: BaseModel, servers: tuple[Context, Context]
) -> None:
    await limit(world, dataset_bytes=3 * SIZE - 1)
    files = [different(number) for number in range(10, 18)]
    calls = [upload(servers[at % 2], "acme", data, dataset=f"d{at}") for at, data in enumerate(files)]
    done, errors = await outcomes(calls)
    assert done == 2
    assert {said(error) for error in errors} == {(Reason.QUOTA_EXCEEDED, "dataset_bytes", 3 * SIZE - 1, 2 * SIZE, SIZE)}


async def test_imports_are_taken_up_to_the_last_byte(world: World, base: BaseModel, tmp_path: Path) -> None:
    first = await adapter(world, tmp_path, 1)
    size = first.size_bytes
    await adapters.delete_adapter(world.context, first.name, "")
    await limit(world, artifact_bytes=size - 1)
    assert said(await refused(adapter(world, tmp_path, 1))) == (Reason.NEVER_FITS, "artifact_bytes", size - 1, 0, size)
    assert not keys(world.store)
    await limit(world, artifact_bytes=2 * size - 1)
    first = await adapter(world, tmp_path, 1)
    error = await refused(adapter(world, tmp_path, 2))
    assert said(error) == (Reason.QUOTA_EXCEEDED, "artifact_bytes", 2 * size - 1, size, size)
    await limit(world, artifact_bytes=2 * size)
    await adapter(world, tmp_path, 2)
    # At the limit a repeated import is answered still, and nothing new is begun.
    assert await adapter(world, tmp_path, 1) == first
    await upload(world.context, "acme")
    assert said(await refused(submit(world.context, "acme"))) == (
        Reason.QUOTA_EXCEEDED,
        "artifact_bytes",
        2 * size,
        2 * size,
        1,
    )
    await limit(world, artifact_bytes=2 * size + 1)
    await submit(world.context, "acme")


async def test_an_export_counts_from_the_moment_that_it_is_asked_for(
    world: World, base: BaseModel, tmp_path: Path
) -> None:
    source = await adapter(world, tmp_path, 1)
    size, room = export_size(base.parameter_count), source.size_bytes

    async def export(name: str) -> None:
        new = NewExport("tenants/acme", source.name, name)
        await exports.create_export(world.context, world.member("acme"), new, RequestKey())

    await limit(world, artifact_bytes=room + size - 1)
    error = await refused(export("a"))
    assert said(error) == (Reason.QUOTA_EXCEEDED, "artifact_bytes", room + size - 1, room, size)
    await limit(world, artifact_bytes=room + size)
    await export("a")
    error = await refused(export("b"))
    assert said(error) == (Reason.QUOTA_EXCEEDED, "artifact_bytes", room + size, room + size, size)


async def test_a_checkpoint_is_promoted_if_there_is_room(world: World, base: BaseModel, tmp_path: Path) -> None:
    job, caller, work = await running(world, base)
    run = Run(world, job, caller, work, tmp_path)
    await run.commit(1)
    await run.commit(2)
    size = (await promotion.promote_checkpoint(world.context, run.name(1))).size_bytes
    used = size + 2 * 9
    await limit(world, artifact_bytes=used + size - 1)
    again = await promotion.promote_checkpoint(world.context, run.name(1))
    assert again.size_bytes == size
    error = await refused(promotion.promote_checkpoint(world.context, run.name(2)))
    assert said(error)[:4] == (Reason.QUOTA_EXCEEDED, "artifact_bytes", used + size - 1, used)
    await limit(world, artifact_bytes=used + size + 10)
    await promotion.promote_checkpoint(world.context, run.name(2))


async def test_adapters_are_deployed_up_to_the_limit(
    world: World, base: BaseModel, tmp_path: Path, servers: tuple[Context, Context]
) -> None:
    names = [(await adapter(world, tmp_path, number)).name for number in range(4)]
    await limit(world, deployed_adapters=2)
    done, errors = await outcomes([adapters.deploy_adapter(servers[at % 2], name) for at, name in enumerate(names)])
    assert done == 2
    assert {said(error) for error in errors} == {(Reason.QUOTA_EXCEEDED, "deployed_adapters", 2, 2, 1)}
    found = {name: (await adapters.get_adapter(world.context, name)).deployment for name in names}
    [one, *_] = wanted = [name for name, deployment in found.items() if deployment is Deployment.DEPLOYING]
    assert len(wanted) == 2
    assert (await adapters.deploy_adapter(world.context, one)).deployment is Deployment.DEPLOYING
    await adapters.undeploy_adapter(world.context, one)
    other = next(name for name in names if name not in wanted)
    await adapters.deploy_adapter(world.context, other)
    await limit(world, deployed_adapters=0)
    error = await refused(adapters.deploy_adapter(world.context, one))
    assert said(error)[:3] == (Reason.NEVER_FITS, "deployed_adapters", 0)


@pytest.mark.parametrize("allowed", [0, 1])
async def test_a_job_whose_adapter_may_not_be_deployed_has_it_all_the_same(
    world: World, base: BaseModel, tmp_path: Path, allowed: int
) -> None:
    if allowed:
        await adapters.deploy_adapter(world.context, (await adapter(world, tmp_path, 1)).name)
    job, caller, work = await running(world, base, deploy=True)
    await limit(world, deployed_adapters=allowed)
    digest = lay_adapter(world.context, work, tmp_path / "a")
    name = await completion.complete_attempt(world.context, caller, Completion(digest))
    assert (await adapters.get_adapter(world.context, name)).deployment is Deployment.UNDEPLOYED
    async with world.context.units(write=False) as unit:
        events = await unit.jobs.events(job.uid, 0, 100)
    [warning] = [event for event in events if event.level is EventLevel.WARNING]
    assert f"{name} is kept, but not deployed" in warning.message
    assert f"{allowed}" in warning.message


async def test_another_tenants_things_do_not_count(world: World, base: BaseModel) -> None:
    await limit(world, open_jobs=1, dataset_bytes=SIZE, artifact_bytes=1)
    for tenant in ("globex", "acme"):
        await upload(world.context, tenant)
        await submit(world.context, tenant)
