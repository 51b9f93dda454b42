"""The model that a job made which trains all weights: read again from the object store, checked, and kept as an export."""

from trellis.errors import FailedPrecondition, Reason
from trellis.exports import ExportError, ExportManifest, check_contents, check_sizes, read_manifest
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.server.app import keys
from trellis.server.app.context import Context
from trellis.server.app.exports import files_of
from trellis.server.domain.export import Export, ExportFormat, ExportState
from trellis.server.domain.tuning_job import Attempt, TuningJob

_READ_BYTES = 2 << 30
"""Models up to this size are read and hashed again; of larger ones, which would take minutes, the sizes must do."""


def check_model(
    store: ObjectStore, job: TuningJob, attempt: Attempt, digest: str, *, read_bytes: int = _READ_BYTES
) -> ExportManifest:
    """The manifest of this digest, once the stored files are what it says and the job's; blocks.

    Raises FailedPrecondition (ADAPTER_INVALID).
    """
    prefix = keys.attempt_model_prefix(job.tenant, job.uid, attempt.number)
    try:
        if not digest:
            raise ExportError("The job trains all weights, but its attempt reported no model_digest.")
        manifest = read_manifest(store, prefix, digest)
        _check_origin(manifest, job)
        check = check_contents if manifest.size_bytes <= read_bytes else check_sizes
        check(store, prefix, manifest)
    except (ExportError, ObjectNotFoundError) as error:
        sentence = f"{error} is missing." if isinstance(error, ObjectNotFoundError) else str(error)
        raise FailedPrecondition(Reason.ADAPTER_INVALID, sentence) from error
    return manifest


def export_of(context: Context, job: TuningJob, attempt: Attempt, manifest: ExportManifest) -> Export:
    """The model as an export of the job, which is there at once."""
    now, uid = context.now(), context.ids.new_id("export")
    return Export(
        tenant=job.tenant,
        export_id=uid,
        uid=uid,
        display_name=job.display_name or job.job_id,
        source=job.name,
        adapter_key="",
        base_model=job.spec.base_model,
        format=ExportFormat.SAFETENSORS,
        state=ExportState.SUCCEEDED,
        key=keys.attempt_model_prefix(job.tenant, job.uid, attempt.number),
        submission_id="",
        create_time=now,
        start_time=now,
        end_time=now,
        files=files_of(manifest),
        cleaned_up=True,
    )


def _check_origin(manifest: ExportManifest, job: TuningJob) -> None:
    spec = job.spec
    expected = {
        "format": ExportFormat.SAFETENSORS.value,
        "base_model": spec.base_model,
        "base_revision": spec.base_revision,
        "tokenizer_digest": spec.tokenizer_digest,
        "tuning_job": job.name,
        "source": job.name,
        "adapter_digest": "",
    }
    for field, value in expected.items():
        if getattr(manifest, field) != value:
            raise ExportError(f"The manifest's {field} is not the job's.")
    if "config.json" not in manifest.files or not any(path.endswith(".safetensors") for path in manifest.files):
        raise ExportError("The manifest names no config.json, or no *.safetensors, without which it is no model.")
