"""What a job starts from: an adapter, or a checkpoint of another job."""

import asyncio
from dataclasses import dataclass

from trellis.artifacts import CONFIG_FILE, ArtifactError, parse_adapter_config
from trellis.errors import InvalidArgument, NotFound
from trellis.names import AdapterName, AliasName, CheckpointName
from trellis.server.app.adapter_manifest import manifest_of
from trellis.server.app.context import Context
from trellis.server.app.job_request import NewTuningJob, StartName, start_kind
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.base_model import BaseModel
from trellis.spec import Lora

_FIELD = "tuning_job.initial_adapter"


@dataclass(frozen=True, slots=True)
class Start:
    """A PEFT folder in the object store under `key`, the base that it is for, and its shape."""

    name: str
    key: str
    base_model: str
    base_revision: str
    """Empty where it is not known, as of some imported adapters."""
    lora: Lora


async def find_start(context: Context, name: StartName) -> Start:
    """The adapter or checkpoint. Raises NotFound, and InvalidArgument for one that can't be trained on from there."""
    async with context.units(write=False) as unit:
        shown, key, base_model, revision = await _place(unit, name)
    try:
        data = await asyncio.to_thread(context.store.read_bytes, f"{key}/{CONFIG_FILE}")
    except FileNotFoundError:
        message = f"{shown} has no {CONFIG_FILE}: it is no checkpoint of an adapter."
        raise InvalidArgument.for_field(_FIELD, message) from None
    return Start(shown, key, base_model, revision, _shape(shown, data))


def differences(start: Start, new: NewTuningJob, base: BaseModel) -> list[tuple[str, str]]:
    """In which fields of the job the request and the base don't fit what it starts from, and a sentence on each."""
    found = []
    if start.base_model != base.name:
        found.append((_FIELD, f"{start.name} is for {start.base_model}, not for {base.name}."))
    elif start.base_revision not in {"", base.revision}:
        found.append((_FIELD, f"{start.name} is for another revision of {base.name}: {start.base_revision}."))
    path = "supervised" if new.method == "supervised" else f"{new.method}.training"
    given = new.lora or {}
    for field in ("rank", "alpha", "target_modules"):
        has = getattr(start.lora, field)
        asked = given.get(field, has)
        if (sorted(asked) != sorted(has)) if field == "target_modules" else asked != has:
            shown = ", ".join(has) if field == "target_modules" else f"{has:g}"
            message = f"{start.name} has {shown}, which can't change; leave it out."
            found.append((f"tuning_job.{path}.lora.{field}", message))
    return found


async def hold_start(unit: UnitOfWork, name: str) -> None:
    """Keep what a job starts from while the job is added; from then on it is in use. Raises NotFound if it is gone."""
    parsed = start_kind(name).parse(name, _FIELD)
    assert not isinstance(parsed, AliasName), "a spec names what its alias pointed at"
    await _present(unit, parsed, for_update=True)


async def _place(unit: UnitOfWork, name: StartName) -> tuple[str, str, str, str]:
    """Name, key, base model and its revision."""
    if isinstance(name, AliasName):
        alias = await unit.adapters.get_alias(name.tenant, name.alias)
        if alias is None:
            raise NotFound.for_resource(name)
        name = AdapterName.for_digest(alias.tenant, alias.adapter_digest)
    return await _present(unit, name)


async def _present(
    unit: UnitOfWork, name: AdapterName | CheckpointName, *, for_update: bool = False
) -> tuple[str, str, str, str]:
    if isinstance(name, CheckpointName):
        job = await unit.jobs.get(name.tenant, name.tuning_job, for_update=for_update)
        checkpoint = await unit.jobs.get_checkpoint(job.uid, int(name.checkpoint)) if job else None
        if job is None or checkpoint is None:
            raise NotFound.for_resource(name)
        return str(name), checkpoint.key, job.spec.base_model, job.spec.base_revision
    adapter = await unit.adapters.get(name.tenant, name.adapter, for_update=for_update)
    if adapter is None:
        raise NotFound.for_resource(name)
    return adapter.name, adapter.key, adapter.base_model, manifest_of(adapter).base_revision


def _shape(name: str, data: bytes) -> Lora:
    """The adapter's shape, as a plain LoRA has it: rank-stabilised scaling is told as the alpha that gives the same."""
    try:
        config = parse_adapter_config(data)
    except ArtifactError as error:
        raise InvalidArgument.for_field(_FIELD, f"{name} can't be trained on: {error}") from None
    if not config.every_target or config.target_modules is None or config.rank_pattern or config.alpha_pattern:
        message = (
            f"{name} does not have one rank and alpha on the same modules of each layer, so it can't be trained on."
        )
        raise InvalidArgument.for_field(_FIELD, message)
    return Lora(config.rank, config.scaling_of("") * config.rank, 0.0, config.target_modules)
