"""Names of another tenant's things, in every field but the one that is checked at the door."""

import asyncio
from collections.abc import Iterator

from tests.contract.store import samples
from tests.every_method import METHODS, PATTERNS, answer_to, filled, name_for, request_for, set_text, texts_of
from tests.rpc_server import Door
from tests.server_fakes import submit, upload

from trellis.access_table import Method
from trellis.server.domain.adapter import Alias
from trellis.server.domain.tuning_job import Checkpoint

NO_NAMES = {"etag", "request_id", "page_token", "display_name", "filename", "sha256"}
NAMES = {
    "SetAlias alias.adapter",
    "CreateExport export.source",
    "CreateTuningJob tuning_job.training_dataset",
    "CreateTuningJob tuning_job.validation_dataset",
    "CreateTuningJob tuning_job.replay_dataset",
    "CreateTuningJob tuning_job.initial_adapter",
    "CreateTuningJob tuning_job.alias",
}
"""Fields that name a tenant's things: whatever else is wrong, another tenant's are refused first."""


async def ids_of(door: Door, tenant: str) -> dict[str, str]:
    """What there is in the tenant, after this has made it."""
    context, number = door.world.context, 1 + (tenant == "globex")
    version = await upload(context, tenant, f'{{"prompt": "{tenant}", "completion": "x"}}\n'.encode() * 20)
    job = await submit(context, tenant)
    adapter = samples.adapter(number, of=tenant)
    async with context.units() as unit:
        await unit.adapters.add(adapter)
        await unit.adapters.put_alias(Alias(tenant, f"alias-{tenant}", adapter.digest, context.now()))
        await unit.jobs.add_checkpoint(job.uid, Checkpoint(5, 1, "k", 1, context.now()))
        await unit.commit()
    job_id = job.name.rpartition("/")[2]
    ids = {"dataset": "questions", "version": version.sha256, "tuning_job": job_id, "checkpoint": "5"}
    return ids | {"adapter": adapter.digest[:24], "alias": f"alias-{tenant}"}


def fields_beside_the_name(method: Method) -> Iterator[list[str]]:
    if method.access.tenant_field and method.descriptor.name != "Generate":  # what models are told is no name
        for path in texts_of(method.descriptor.input_type):
            if ".".join(path) != method.access.tenant_field and path[-1] not in NO_NAMES:
                yield path


async def test_no_field_tells_of_another_tenants_things(door: Door) -> None:
    mine, theirs = await ids_of(door, "acme"), await ids_of(door, "globex")
    wrong: list[str] = []

    async def check(method: Method, path: list[str]) -> None:
        for pattern in sorted(set(PATTERNS.values())):
            said = set()
            for ids in (theirs, {}):
                name = filled(pattern, "globex", ids)
                request = request_for(method, name_for(method, "acme", mine))
                set_text(request, path, name)
                answer = await answer_to(door, method, "tenant-admin", request)
                said.add((answer.status, answer.message.replace(name, "…"), answer.body))
            title = f"{method.descriptor.name} {'.'.join(path)}"
            if len(said) > 1 or "INTERNAL" in {status for status, _, _ in said}:
                wrong.append(f"{title} = {name}: {said}")
            if title in NAMES and {status for status, _, _ in said} != {"PERMISSION_DENIED"}:
                wrong.append(f"{title} = {name}: {said}, not refused")

    checked = [(method, path) for method in METHODS for path in fields_beside_the_name(method)]
    assert {f"{method.descriptor.name} {'.'.join(path)}" for method, path in checked} >= NAMES
    for start in range(0, len(checked), 8):
        async with asyncio.TaskGroup() as tasks:
            for method, path in checked[start : start + 8]:
                tasks.create_task(check(method, path))
    assert wrong == []
