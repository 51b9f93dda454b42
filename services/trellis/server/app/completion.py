"""The good end of an attempt: what it made is read again from the object store, checked, and recorded."""

import asyncio
import hashlib
import tempfile
from dataclasses import dataclass, replace
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
from trellis.bases import BaseFacts, BaseModelError, BaseModelNotFetchedError, read_base
from trellis.errors import FailedPrecondition, Reason, TrellisError, error_for
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.server.app import keys
from trellis.server.app.adapters import point_alias, want_deployed
from trellis.server.app.attempt_usage import AttemptUsage, with_usage
from trellis.server.app.attempts import COMPLETED, current_attempt, reference, renewed
from trellis.server.app.audit import record
from trellis.server.app.base_models import not_fetched
from trellis.server.app.context import Context
from trellis.server.app.holds import release, settle
from trellis.server.app.metrics import count_attempt, count_job
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota import limited_tenant
from trellis.server.app.whole_model import check_model, export_of
from trellis.server.domain.adapter import Adapter
from trellis.server.domain.caller import Caller
from trellis.server.domain.export import Export
from trellis.server.domain.held_out import held_out_warnings, measured
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.tuning_job import Attempt, Evaluation, EventLevel, JobEvent, JobState, TuningJob

_MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Completion:
    """What an attempt says at its end."""

    adapter_digest: str = ""
    model_digest: str = ""
    """The sha256 of the whole model's manifest, for a job that trains all weights, which makes no adapter."""
    base_evaluation: Evaluation | None = None
    tuned_evaluation: Evaluation | None = None
    usage: AttemptUsage | None = None


async def complete_attempt(context: Context, caller: Caller, completion: Completion) -> str:
    """Record what was made, and end the job SUCCEEDED; the name of its adapter, or of its export if it trained all
    weights. Calling again changes nothing.
    """
    done = await _completed(context, caller, completion)
    if done is not None:
        return done
    async with context.units() as unit:
        job, attempt = await current_attempt(unit, caller)
        await unit.jobs.save_attempt(renewed(context, attempt))
        await unit.commit()
    if job.spec.full:
        model = await asyncio.to_thread(check_model, context.store, job, attempt, completion.model_digest)
        made: Adapter | Export = export_of(context, job, attempt, model)
    else:
        manifest, facts = await asyncio.to_thread(_check, context.store, job, attempt, completion.adapter_digest)
        made = _adapter(context, job, attempt, manifest, facts)
    async with context.units() as unit:
        limits = ("deployed_adapters",) if job.deploy else ()
        tenant = await limited_tenant(unit, job.tenant, *limits)
        job, attempt = await current_attempt(unit, caller)
        await _record(context, unit, tenant, job, attempt, made, completion)
        await unit.commit()
    return made.name


async def _completed(context: Context, caller: Caller, completion: Completion) -> str | None:
    """The name of what was made, if this very call was answered before."""
    ref = reference(caller)
    async with context.units(write=False) as unit:
        job = await unit.jobs.get_by_uid(ref.job_uid)
        attempt = await unit.jobs.get_attempt(ref.job_uid, ref.attempt)
        if job is None or attempt is None or attempt.outcome != COMPLETED:
            return None
        if job.spec.full:
            return await _exported(unit, job, completion.model_digest)
    if job.adapter_digest != completion.adapter_digest:
        raise error_for(Reason.ATTEMPT_FENCED, "The attempt completed with another adapter. Stop.")
    return f"tenants/{job.tenant}/adapters/{job.adapter_digest[:24]}"


async def _exported(unit: UnitOfWork, job: TuningJob, digest: str) -> str:
    """The name of the job's export, if its manifest has this digest, or nobody can say any more."""
    export = await unit.exports.get(job.tenant, job.export_id)
    if export is not None and digest not in {file.sha256 for file in export.files if file.path == MANIFEST_FILE}:
        raise error_for(Reason.ATTEMPT_FENCED, "The attempt completed with another model. Stop.")
    return f"tenants/{job.tenant}/exports/{job.export_id}"


def _check(store: ObjectStore, job: TuningJob, attempt: Attempt, digest: str) -> tuple[Manifest, AdapterFacts]:
    """The manifest, once the stored files are what it says and have passed the gate; blocks."""
    prefix = keys.attempt_adapter_prefix(job.tenant, job.uid, attempt.number)
    try:
        manifest = _manifest(store, prefix, digest)
        _check_origin(manifest, job)
        base = read_base(job.spec.base_source, job.spec.base_revision)
        return manifest, _check_files(store, prefix, manifest, base)
    except BaseModelNotFetchedError as error:
        raise not_fetched(str(error), job.spec.base_model) from error
    except (ArtifactError, BaseModelError, ObjectNotFoundError) as error:
        sentence = f"{error} is missing." if isinstance(error, ObjectNotFoundError) else str(error)
        raise FailedPrecondition(Reason.ADAPTER_INVALID, sentence) from error


def _manifest(store: ObjectStore, prefix: str, digest: str) -> Manifest:
    key = f"{prefix}/{MANIFEST_FILE}"
    if store.size(key) > _MAX_MANIFEST_BYTES:
        raise ArtifactError("bad_manifest", f"{MANIFEST_FILE} is too large.")
    data = store.read_bytes(key)
    manifest = Manifest.from_json(data)
    if hashlib.sha256(data).hexdigest() != digest or manifest.digest != digest:
        raise ArtifactError("bad_manifest", f"{MANIFEST_FILE} does not have the digest {digest!r} that was reported.")
    return manifest


def _check_origin(manifest: Manifest, job: TuningJob) -> None:
    spec = job.spec
    expected = {
        "base_model": spec.base_model,
        "base_revision": spec.base_revision,
        "tokenizer_digest": spec.tokenizer_digest,
        "dataset_sha256": spec.training_sha256,
        "tuning_job": job.name,
    }
    for field, value in expected.items():
        if getattr(manifest, field) != value:
            raise ArtifactError("bad_manifest", f"The manifest's {field} is not the job's.")
    if set(manifest.files) != set(ADAPTER_FILES):
        raise ArtifactError("unexpected_file", f"The manifest must name exactly {' and '.join(ADAPTER_FILES)}.")


def _check_files(store: ObjectStore, prefix: str, manifest: Manifest, base: BaseFacts) -> AdapterFacts:
    with tempfile.TemporaryDirectory(prefix="trellis-adapter-") as name:
        folder = Path(name)
        for file, facts in manifest.files.items():
            store.get_file(f"{prefix}/{file}", folder / file)
            if file_facts(folder / file) != facts:
                raise ArtifactError("bad_manifest", f"{file} is not the file that the manifest names.")
        return check_adapter_folder(folder, base)


def _adapter(context: Context, job: TuningJob, attempt: Attempt, manifest: Manifest, facts: AdapterFacts) -> Adapter:
    return Adapter(
        tenant=job.tenant,
        digest=manifest.digest,
        display_name=job.display_name or job.job_id,
        base_model=job.spec.base_model,
        tuning_job=job.name,
        rank=facts.rank,
        target_modules=facts.target_modules,
        size_bytes=manifest.size_bytes,
        key=keys.attempt_adapter_prefix(job.tenant, job.uid, attempt.number),
        manifest_json=manifest.to_json().decode(),
        create_time=context.now(),
    )


async def _record(
    context: Context,
    unit: UnitOfWork,
    tenant: Tenant,
    job: TuningJob,
    attempt: Attempt,
    made: Adapter | Export,
    completion: Completion,
) -> None:
    now = context.now()
    events = [JobEvent(now, EventLevel.INFO, f"The job made {made.name}.", state=JobState.SUCCEEDED)]
    if isinstance(made, Export):
        await unit.exports.add(made)
        await record(context, unit, None, made)
        job = replace(job, export_id=made.export_id)
    else:
        events += await _add_adapter(context, unit, tenant, job, made)
        job = replace(job, adapter_digest=made.digest)
    base, tuned = measured(completion.base_evaluation), measured(completion.tuned_evaluation)
    job = replace(job, base_evaluation=base, tuned_evaluation=tuned)
    warnings = held_out_warnings(job, await unit.jobs.best_checkpoint(job.uid))
    attempt = with_usage(attempt, completion.usage)
    await unit.jobs.save_attempt(replace(attempt, end_time=now, outcome=COMPLETED))
    total = await settle(unit, job, attempt, now, context.settings.prices)
    await release(unit, total, now)
    succeeded = replace(
        total.moved(JobState.SUCCEEDED, now),
        warnings=warnings,
        progress=replace(job.progress, eta_seconds=0.0),
    )
    events += [JobEvent(now, EventLevel.WARNING, warning) for warning in warnings]
    count_attempt(None)
    count_job(succeeded.state, None)
    await unit.jobs.save(succeeded, events)


async def _add_adapter(
    context: Context, unit: UnitOfWork, tenant: Tenant, job: TuningJob, adapter: Adapter
) -> list[JobEvent]:
    """Keep the adapter, and what was asked for with it; what is to be said beside."""
    if await unit.adapters.add(adapter):
        await record(context, unit, None, adapter)
    events = await _deploy(context, unit, tenant, adapter) if job.deploy else []
    if job.alias_id:
        await point_alias(context, unit, job.tenant, job.alias_id, adapter.digest)
    return events


async def _deploy(context: Context, unit: UnitOfWork, tenant: Tenant, adapter: Adapter) -> list[JobEvent]:
    """Deploy the adapter, or the one of the same digest which was there already; one that the tenant's quota has no room
    for is kept as it is.
    """
    present = await unit.adapters.get(adapter.tenant, adapter.adapter_id, for_update=True)
    assert present is not None, "it was added, or was there"
    try:
        await want_deployed(context, unit, tenant, present)
    except TrellisError as error:
        if not error.quota_violations:
            raise
        message = f"{adapter.name} is kept, but not deployed: {error}"
        return [JobEvent(context.now(), EventLevel.WARNING, message)]
    return []
