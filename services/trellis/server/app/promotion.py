"""Adapters made of checkpoints."""

import asyncio
import json
import tempfile
from pathlib import Path

from trellis.artifacts import (
    ADAPTER_FILES,
    MANIFEST_FILE,
    AdapterFacts,
    ArtifactError,
    Manifest,
    check_adapter_folder,
    file_facts,
)
from trellis.bases import BaseModelError, BaseModelNotFetchedError, read_base
from trellis.errors import FailedPrecondition, NotFound, Reason, error_for
from trellis.names import CheckpointName
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.server.app import keys
from trellis.server.app.audit import record
from trellis.server.app.base_models import not_fetched
from trellis.server.app.checkpoints import present_checkpoint
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.quota import limited_tenant, require_artifact
from trellis.server.domain.adapter import Adapter
from trellis.server.domain.tuning_job import Checkpoint, TuningJob


async def promote_checkpoint(context: Context, name: str, display_name: str = "") -> Adapter:
    """Copy a checkpoint's adapter, check it like every other one, and record it. Doing it again answers the same one."""
    parsed = CheckpointName.parse(name)
    violations = Violations()
    violations.text(display_name, "display_name")
    violations.raise_any()
    async with context.units(write=False) as unit:
        job, checkpoint = await present_checkpoint(unit, parsed)
    if job.spec.full:
        message = f"{job.name} trains all weights: its checkpoints hold no adapter. Its export is what it makes."
        raise error_for(Reason.INVALID_STATE, message, metadata={"state": job.state.value})
    key = keys.promoted_prefix(job.tenant, job.uid, checkpoint.step, checkpoint.attempt)
    try:
        manifest, facts = await asyncio.to_thread(_copy, context.store, job, checkpoint, key)
    except ObjectNotFoundError:
        raise NotFound.for_resource(parsed) from None
    except BaseModelNotFetchedError as error:
        raise not_fetched(str(error), job.spec.base_model) from error
    except (ArtifactError, BaseModelError) as error:
        code = error.code if isinstance(error, ArtifactError) else "base_model"
        message = f"{name} makes no sound adapter: {error}"
        raise FailedPrecondition(Reason.ADAPTER_INVALID, message, metadata={"code": code}) from error
    shown = display_name or f"{job.display_name or job.job_id}, step {checkpoint.step}"
    return await _recorded(context, _adapter(context, job, key, manifest, facts, shown[:100]))


def _copy(store: ObjectStore, job: TuningJob, checkpoint: Checkpoint, key: str) -> tuple[Manifest, AdapterFacts]:
    """Check the checkpoint's PEFT folder, and lay it with its manifest under `key`; blocks."""
    base = read_base(job.spec.base_source, job.spec.base_revision)
    with tempfile.TemporaryDirectory(prefix="trellis-promotion-") as name:
        folder = Path(name)
        for file in ADAPTER_FILES:
            store.get_file(f"{checkpoint.key}/{file}", folder / file)
        facts = check_adapter_folder(folder, base)
        manifest = _manifest(job, checkpoint, folder)
        for file in ADAPTER_FILES:
            store.put_file(f"{key}/{file}", folder / file)
    store.put_bytes(f"{key}/{MANIFEST_FILE}", manifest.to_json())
    return manifest, facts


def _manifest(job: TuningJob, checkpoint: Checkpoint, folder: Path) -> Manifest:
    """The same for the same checkpoint: so is its digest, and the adapter's name."""
    spec = job.spec
    metrics: dict[str, float | int] = {"steps": checkpoint.step}
    if checkpoint.valid_loss is not None:
        metrics["valid_loss"] = checkpoint.valid_loss
    return Manifest(
        base_model=spec.base_model,
        base_revision=spec.base_revision,
        tokenizer_digest=spec.tokenizer_digest,
        files={file: file_facts(folder / file) for file in ADAPTER_FILES},
        dataset_version=spec.training_dataset,
        dataset_sha256=spec.training_sha256,
        spec=json.loads(spec.to_json()),
        metrics=metrics,
        tuning_job=job.name,
    )


def _adapter(
    context: Context, job: TuningJob, key: str, manifest: Manifest, facts: AdapterFacts, display_name: str
) -> Adapter:
    return Adapter(
        tenant=job.tenant,
        digest=manifest.digest,
        display_name=display_name,
        base_model=job.spec.base_model,
        tuning_job=job.name,
        rank=facts.rank,
        target_modules=facts.target_modules,
        size_bytes=manifest.size_bytes,
        key=key,
        manifest_json=manifest.to_json().decode(),
        create_time=context.now(),
    )


async def _recorded(context: Context, adapter: Adapter) -> Adapter:
    async with context.units() as unit:
        tenant = await limited_tenant(unit, adapter.tenant, "artifact_bytes")
        if await unit.adapters.get(adapter.tenant, adapter.adapter_id) is None:
            # What was copied is left to the sweep: another call may have recorded it by now.
            await require_artifact(unit, tenant, adapter.size_bytes)
        if await unit.adapters.add(adapter):
            await record(context, unit, None, adapter)
            await unit.commit()
            return adapter
        found = await unit.adapters.get(adapter.tenant, adapter.adapter_id)
    assert found is not None, "an adapter that can't be added is there"
    if found.key != adapter.key:
        await asyncio.to_thread(context.store.delete_prefix, adapter.key)
    return found
