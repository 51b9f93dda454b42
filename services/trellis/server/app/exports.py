"""Exports: asked for, read, deleted, and their files read in pieces."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from trellis.artifacts import MANIFEST_FILE, FileFacts
from trellis.errors import FailedPrecondition, InvalidArgument, NotFound, Reason, error_for
from trellis.exports import ExportManifest
from trellis.names import AdapterName, AliasName, CheckpointName, ExportName, TenantName, TuningJobName
from trellis.server.app import keys
from trellis.server.app.adapter_manifest import manifest_of
from trellis.server.app.adapters import present_adapter, present_alias
from trellis.server.app.audit import record
from trellis.server.app.authorisation import require_names
from trellis.server.app.base_models import base_model_unavailable
from trellis.server.app.context import Context
from trellis.server.app.export_usage import measured_export
from trellis.server.app.fields import Violations
from trellis.server.app.idempotency import RequestKey, create_once
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota import limited_tenant, require_artifact
from trellis.server.app.reading import read_pieces
from trellis.server.app.tenants import present_tenant
from trellis.server.app.tuning_jobs import present_job
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller
from trellis.server.domain.export import Export, ExportFile, ExportFormat, ExportState, export_size
from trellis.server.domain.tuning_job import Checkpoint, TuningJob

_PAGE = 1000
_GGUF = (
    "GGUF files are not made here. Export as SAFETENSORS, download the folder, and run llama.cpp's"
    " convert_hf_to_gguf.py on it."
)


@dataclass(frozen=True, slots=True)
class NewExport:
    """An export to make; `format` None is safetensors."""

    parent: str
    source: str
    export_id: str = ""
    display_name: str = ""
    format: ExportFormat | None = None


@dataclass(frozen=True, slots=True)
class FilePiece:
    """Some bytes of a file, and where they begin in it."""

    data: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class _Source:
    """What an export is made of: a PEFT folder, and the base that it was made for."""

    name: str
    adapter_key: str
    base_model: str
    base_revision: str


async def create_export(context: Context, caller: Caller, new: NewExport, key: RequestKey) -> Export:
    """Ask for a whole model; the control loops have it made."""
    require_names(caller, new.source)
    tenant, named = _checked(new, key)

    async def create(unit: UnitOfWork) -> tuple[str, Export]:
        limited = await limited_tenant(unit, tenant, "artifact_bytes")
        source = await _resolved(unit, named)
        base = await _present_base(unit, source)
        await require_artifact(unit, limited, export_size(base.parameter_count))
        uid = context.ids.new_id("export")
        export = Export(
            tenant=tenant,
            export_id=new.export_id or uid,
            uid=uid,
            display_name=new.display_name,
            source=source.name,
            adapter_key=source.adapter_key,
            base_model=source.base_model,
            format=ExportFormat.SAFETENSORS,
            state=ExportState.PENDING,
            key=keys.export_prefix(tenant, uid),
            submission_id="",
            create_time=context.now(),
        )
        await unit.exports.add(export)
        await record(context, unit, None, export)
        return export.name, export

    async def read(unit: UnitOfWork, name: str) -> Export:
        return await present_export(unit, ExportName.parse(name))

    return await create_once(context, f"CreateExport {new.parent}", key, create, read)


async def get_export(context: Context, name: str) -> Export:
    """Read an export."""
    parsed = ExportName.parse(name)
    async with context.units(write=False, snapshot=False) as unit:
        return await present_export(unit, parsed)


async def list_exports(context: Context, parent: str, query: PageQuery) -> Listed[Export]:
    """A tenant's exports, newest first."""
    tenant = TenantName.parse(parent, "parent").tenant
    async with context.units(write=False, snapshot=False) as unit:
        await present_tenant(unit, tenant)
        return await read_page(
            f"ListExports {parent}", query, lambda limit, cursor: unit.exports.list(tenant, limit, cursor)
        )


async def delete_export(context: Context, name: str) -> None:
    """Delete an export with its files. A process that still makes it finds its task gone and leaves."""
    parsed = ExportName.parse(name)
    async with context.units() as unit:
        export = await present_export(unit, parsed, for_update=True)
        if not export.ended:
            settings = context.settings
            await unit.ledger.append(measured_export(export, context.now(), settings.needs, settings.prices))
        await unit.exports.delete(export.tenant, export.export_id)
        await record(context, unit, export, None)
        await unit.commit()
    await asyncio.to_thread(context.store.delete_prefix, export.key)


async def read_export_file(context: Context, name: str, path: str, offset: int) -> AsyncIterator[FilePiece]:
    """A file's bytes from `offset` on, at most 1 MiB at a time."""
    export = await get_export(context, name)
    if export.state is not ExportState.SUCCEEDED:
        message = f"{name} is {export.state}; its files can be read when it has SUCCEEDED."
        raise error_for(Reason.INVALID_STATE, message, metadata={"state": export.state.value})
    file = next((one for one in export.files if one.path == path), None)
    if file is None:
        raise NotFound.for_resource(f"{name}, file {path[:200]!r}")
    if not 0 <= offset <= file.size_bytes:
        raise InvalidArgument.for_field("offset", f"{offset} is not between 0 and {file.size_bytes}.")
    async for data in read_pieces(context.store, f"{export.key}/{path}", offset):
        yield FilePiece(data, offset)
        offset += len(data)


async def present_export(unit: UnitOfWork, name: ExportName, *, for_update: bool = False) -> Export:
    """The export; raises NotFound."""
    export = await unit.exports.get(name.tenant, name.export, for_update=for_update)
    if export is None:
        raise NotFound.for_resource(name)
    return export


def files_of(manifest: ExportManifest) -> tuple[ExportFile, ...]:
    """The files of an export with this manifest, itself among them, by path."""
    facts = {**manifest.files, MANIFEST_FILE: FileFacts(manifest.digest, len(manifest.to_json()))}
    return tuple(ExportFile(path, one.size, one.sha256) for path, one in sorted(facts.items()))


_SourceName = AdapterName | AliasName | CheckpointName


def _checked(new: NewExport, key: RequestKey) -> tuple[str, _SourceName]:
    violations = Violations()
    tenant = violations.name(TenantName, new.parent, "parent")
    source = _source_name(new.source, violations)
    if tenant and source and source.tenant != tenant.tenant:
        violations.add("export.source", f"{source} is not one of {new.parent}.")
    if new.export_id:
        violations.id("export", new.export_id, "export_id")
    violations.text(new.display_name, "export.display_name")
    if new.format is ExportFormat.GGUF:
        violations.add("export.format", _GGUF)
    key.check(violations)
    violations.raise_any()
    assert tenant is not None
    assert source is not None
    return tenant.tenant, source


def _source_name(name: str, violations: Violations) -> _SourceName | None:
    field = "export.source"
    if "/aliases/" in name:
        return violations.name(AliasName, name, field)
    if "/checkpoints/" in name:
        return violations.name(CheckpointName, name, field)
    if "/adapters/" in name:
        return violations.name(AdapterName, name, field)
    violations.add(field, f"{name[:200]!r} must be the name of an adapter, an alias, or a job's checkpoint.")
    return None


async def _resolved(unit: UnitOfWork, name: _SourceName) -> _Source:
    if isinstance(name, CheckpointName):
        job = await present_job(unit, TuningJobName(name.tenant, name.tuning_job))
        checkpoint = await _present_checkpoint(unit, name, job)
        return _Source(str(name), checkpoint.key, job.spec.base_model, job.spec.base_revision)
    if isinstance(name, AliasName):
        name = AdapterName.for_digest(name.tenant, (await present_alias(unit, name)).adapter_digest)
    adapter = await present_adapter(unit, name)
    revision = manifest_of(adapter).base_revision
    return _Source(adapter.name, adapter.key, adapter.base_model, revision)


async def _present_checkpoint(unit: UnitOfWork, name: CheckpointName, job: TuningJob) -> Checkpoint:
    if job.spec.full:
        message = (
            f"{name} is of a job that trains all weights, whose checkpoints hold no adapter. Its export is the job's."
        )
        raise FailedPrecondition(Reason.INVALID_STATE, message)
    cursor: str | None = None
    while True:
        page = await unit.jobs.checkpoints(job.uid, _PAGE, cursor)
        found = next((one for one in page.items if str(one.step) == name.checkpoint), None)
        if found is not None:
            return found
        if (cursor := page.next_cursor) is None:
            raise NotFound.for_resource(name)


async def _present_base(unit: UnitOfWork, source: _Source) -> BaseModel:
    base = await unit.base_models.get(source.base_model.removeprefix("baseModels/"))
    if base is None:
        raise base_model_unavailable(source.base_model)
    if source.base_revision and base.revision != source.base_revision:
        message = f"{source.name} was made for revision {source.base_revision} of {base.name}, which is now registered"
        details = {"base_model": base.name}
        raise error_for(Reason.BASE_MODEL_UNAVAILABLE, f"{message} in revision {base.revision}.", metadata=details)
    return base
