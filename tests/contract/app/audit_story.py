"""Every call that changes something, in an order that works, and what the trail must say of each."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from tests.server_fakes import LINES, TINY

from trellis.artifacts import ADAPTER_FILES
from trellis.v1 import (
    access_pb2,
    adapter_pb2,
    api_key_pb2,
    base_model_pb2,
    dataset_pb2,
    export_pb2,
    tenant_pb2,
    tuning_job_pb2,
)

SHA = hashlib.sha256(LINES).hexdigest()
Builder = Callable[[dict[str, str]], Message | Sequence[Message]]


@dataclass(frozen=True)
class Deed:
    """A call, and what the trail must say of it; the names in braces are those that earlier calls gave."""

    method: str
    request: Builder
    resource: str = ""
    """Empty where nothing changes, and the trail says nothing."""
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    keep: str = ""
    """Under which name the answer's own is kept."""
    who: str = "admin"
    also: tuple[str, ...] = ()
    """Resources of further events of the same call."""


def adapter_files(folder: Path, base: str = "baseModels/tiny") -> list[Message]:
    """An import's messages."""
    pb = adapter_pb2.ImportAdapterRequest
    messages: list[Message] = [pb(header=pb.Header(parent="tenants/acme", base_model=base, display_name="Mine"))]
    for name in ADAPTER_FILES:
        data = (folder / name).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        messages += [pb(file=pb.FileHeader(filename=name, size_bytes=len(data), sha256=sha256)), pb(chunk=data)]
    return messages


def upload_messages(dataset: str, *, allow_missing: bool = False) -> list[Message]:
    pb = dataset_pb2.UploadDatasetVersionRequest
    header = pb.Header(
        parent=dataset, filename="q.jsonl", size_bytes=len(LINES), sha256=SHA, allow_missing=allow_missing
    )
    return [pb(header=header), pb(chunk=LINES)]


def state(name: str) -> dict[str, Any]:
    return {"state": name}


def masked(message: Any, *paths: str) -> Any:
    message.update_mask.paths.extend(paths)
    return message


TENANT, KEY, DATASET, JOB = "tenants/initech", "{key}", "tenants/acme/datasets/fresh", "tenants/acme/tuningJobs/told"
ALIAS = "tenants/acme/aliases/support"
Job = tuning_job_pb2


def story(folder: Path) -> list[Deed]:
    """Every changing method, and its repeats that change nothing."""
    t, k, b, d, a, e = tenant_pb2, api_key_pb2, base_model_pb2, dataset_pb2, adapter_pb2, export_pb2
    named = {
        kind: lambda names, kind=kind, key=key: kind(name=names[key])
        for kind, key in (
            (a.DeployAdapterRequest, "adapter"),
            (a.UndeployAdapterRequest, "adapter"),
            (a.DeleteAdapterRequest, "adapter"),
            (k.RotateApiKeyRequest, "key"),
            (k.RevokeApiKeyRequest, "key"),
            (Job.PauseTuningJobRequest, "job"),
            (Job.ResumeTuningJobRequest, "job"),
            (Job.PreemptTuningJobRequest, "other"),
            (Job.CancelTuningJobRequest, "job"),
            (Job.DeleteTuningJobRequest, "job"),
        )
    }
    create_tenant = t.CreateTenantRequest(
        tenant_id="initech", tenant=t.Tenant(display_name="Initech", quota=t.Quota(open_jobs=7)), request_id="once"
    )
    made_tenant = {"display_name": "Initech", "serving_weight": 1.0, "training_weight": 1.0, "quota.open_jobs": 7}
    renamed = t.Tenant(name=TENANT, display_name="Initech Ltd", quota=t.Quota(open_jobs=8))
    update_tenant = masked(t.UpdateTenantRequest(tenant=renamed), "display_name", "quota")
    secret_name = "see trk_0123456789abcdefghijklmnopqrstuvwxyz and more"
    create_key = k.CreateApiKeyRequest(
        parent=TENANT, api_key=k.ApiKey(display_name=secret_name, role=access_pb2.ROLE_MEMBER)
    )
    base = b.CreateBaseModelRequest(base_model_id="second", base_model=b.BaseModel(source=str(TINY), display_name="B"))
    export = e.CreateExportRequest(parent="tenants/acme", export_id="whole")
    shared = {"name": "{adapter}", "tenant": "tenants/globex"}

    def exported(names: dict[str, str]) -> Message:
        export.export.source = names["adapter"]
        return export

    def aliased(names: dict[str, str]) -> Message:
        return a.SetAliasRequest(alias=a.Alias(name=ALIAS, adapter=names["adapter"]))

    def sharing(kind: Any) -> Builder:
        return lambda names: kind(name=names["adapter"], tenant=shared["tenant"])

    def pinning(*, pinned: bool) -> Builder:
        return lambda names: Job.UpdateCheckpointRequest(
            checkpoint=Job.Checkpoint(name=names["checkpoint"], pinned=pinned), update_mask=FieldMask(paths=["pinned"])
        )

    return [
        Deed("TenantService.CreateTenant", lambda _: create_tenant, TENANT, after=made_tenant),
        Deed("TenantService.CreateTenant", lambda _: create_tenant),
        Deed(
            "TenantService.UpdateTenant",
            lambda _: update_tenant,
            TENANT,
            {"display_name": "Initech", "quota.open_jobs": 7},
            {"display_name": "Initech Ltd", "quota.open_jobs": 8},
        ),
        Deed("TenantService.UpdateTenant", lambda _: update_tenant),
        Deed(
            "ApiKeyService.CreateApiKey",
            lambda _: create_key,
            KEY,
            after={"display_name": "see [secret] and more", "role": "MEMBER"},
            keep="key",
        ),
        Deed(
            "ApiKeyService.RotateApiKey",
            named[k.RotateApiKeyRequest],
            KEY,
            after={"rotate_time": ..., "old_secret_expire_time": ...},
        ),
        Deed("ApiKeyService.RevokeApiKey", named[k.RevokeApiKeyRequest], KEY, after={"revoke_time": ...}),
        Deed("ApiKeyService.RevokeApiKey", named[k.RevokeApiKeyRequest]),
        Deed(
            "TenantService.DeleteTenant",
            lambda _: t.DeleteTenantRequest(name=TENANT),
            TENANT,
            before={**made_tenant, "display_name": "Initech Ltd", "quota.open_jobs": 8},
        ),
        Deed(
            "BaseModelService.CreateBaseModel",
            lambda _: base,
            "baseModels/second",
            after={"display_name": "B", "source": str(TINY), "revision": ..., "architecture": ..., "is_default": False},
        ),
        Deed(
            "BaseModelService.DeleteBaseModel",
            lambda _: b.DeleteBaseModelRequest(name="baseModels/second"),
            "baseModels/second",
            {"display_name": "B", "source": str(TINY), "revision": ..., "architecture": ..., "is_default": False},
        ),
        Deed(
            "DatasetService.CreateDataset",
            lambda _: d.CreateDatasetRequest(
                parent="tenants/acme", dataset_id="fresh", dataset=d.Dataset(display_name="x" * 90)
            ),
            DATASET,
            after={"display_name": "x" * 90},
            who="member",
        ),
        Deed(
            "DatasetService.UploadDatasetVersion",
            lambda _: upload_messages(DATASET),
            f"{DATASET}/versions/{SHA}",
            after={
                "filename": "q.jsonl",
                "file_format": "jsonl",
                "size_bytes": len(LINES),
                "base_model": "baseModels/tiny",
            },
        ),
        Deed("DatasetService.UploadDatasetVersion", lambda _: upload_messages(DATASET)),
        Deed(
            "DatasetService.UploadDatasetVersion",
            lambda _: upload_messages("tenants/acme/datasets/made", allow_missing=True),
            f"tenants/acme/datasets/made/versions/{SHA}",
            after={"filename": "q.jsonl", "file_format": "jsonl", "size_bytes": len(LINES), "base_model": ...},
            also=("tenants/acme/datasets/made",),
        ),
        Deed(
            "DatasetService.DeleteDataset",
            lambda _: d.DeleteDatasetRequest(name="tenants/acme/datasets/made"),
            "tenants/acme/datasets/made",
            {"latest_sha256": SHA},
        ),
        Deed(
            "TuningJobService.CreateTuningJob",
            lambda _: Job.CreateTuningJobRequest(
                parent="tenants/acme",
                tuning_job_id="told",
                tuning_job=Job.TuningJob(training_dataset="tenants/acme/datasets/questions"),
            ),
            JOB,
            after={
                "state": "QUEUED",
                "priority": 0,
                "deploy": False,
                "base_model": "baseModels/tiny",
                "training_dataset": ...,
            },
            keep="job",
        ),
        Deed(
            "TuningJobService.PauseTuningJob", named[Job.PauseTuningJobRequest], JOB, state("QUEUED"), state("PAUSED")
        ),
        Deed("TuningJobService.PauseTuningJob", named[Job.PauseTuningJobRequest]),
        Deed(
            "TuningJobService.ResumeTuningJob", named[Job.ResumeTuningJobRequest], JOB, state("PAUSED"), state("QUEUED")
        ),
        Deed(
            "TuningJobService.CancelTuningJob",
            named[Job.CancelTuningJobRequest],
            JOB,
            state("QUEUED"),
            state("CANCELLED"),
        ),
        Deed("TuningJobService.CancelTuningJob", named[Job.CancelTuningJobRequest]),
        Deed(
            "TuningJobService.DeleteTuningJob",
            named[Job.DeleteTuningJobRequest],
            JOB,
            {
                "state": "CANCELLED",
                "priority": 0,
                "deploy": False,
                "base_model": "baseModels/tiny",
                "training_dataset": ...,
            },
        ),
        Deed(
            "TuningJobService.UpdateCheckpoint",
            pinning(pinned=True),
            "{checkpoint}",
            {"pinned": False},
            {"pinned": True},
        ),
        Deed("TuningJobService.UpdateCheckpoint", pinning(pinned=True)),
        Deed(
            "TuningJobService.PromoteCheckpoint",
            lambda names: Job.PromoteCheckpointRequest(name=names["checkpoint"], display_name="Half way"),
            "{promoted}",
            after={
                "digest": ...,
                "display_name": "Half way",
                "base_model": "baseModels/tiny",
                "tuning_job": "{other}",
                "rank": 2,
                "size_bytes": ...,
                "deployment": "UNDEPLOYED",
            },
            keep="promoted",
        ),
        Deed(
            "TuningJobService.PromoteCheckpoint", lambda names: Job.PromoteCheckpointRequest(name=names["checkpoint"])
        ),
        Deed(
            "TuningJobService.PreemptTuningJob",
            named[Job.PreemptTuningJobRequest],
            "{other}",
            state("RUNNING"),
            state("PREEMPTING"),
        ),
        Deed("TuningJobService.PreemptTuningJob", named[Job.PreemptTuningJobRequest]),
        Deed(
            "AdapterService.ImportAdapter",
            lambda _: adapter_files(folder),
            "{adapter}",
            after={
                "digest": ...,
                "display_name": "Mine",
                "base_model": "baseModels/tiny",
                "rank": 2,
                "size_bytes": ...,
                "deployment": "UNDEPLOYED",
            },
            keep="adapter",
        ),
        Deed("AdapterService.ImportAdapter", lambda _: adapter_files(folder)),
        Deed(
            "AdapterService.DeployAdapter",
            named[a.DeployAdapterRequest],
            "{adapter}",
            {"deployment": "UNDEPLOYED"},
            {"deployment": "DEPLOYING"},
        ),
        Deed("AdapterService.DeployAdapter", named[a.DeployAdapterRequest]),
        Deed(
            "AdapterService.UndeployAdapter",
            named[a.UndeployAdapterRequest],
            "{adapter}",
            {"deployment": "DEPLOYING"},
            {"deployment": "UNDEPLOYED"},
        ),
        Deed("AdapterService.UndeployAdapter", named[a.UndeployAdapterRequest]),
        Deed("AdapterService.SetAlias", aliased, ALIAS, after={"adapter_digest": ...}),
        Deed("AdapterService.SetAlias", aliased),
        Deed(
            "AdapterService.DeleteAlias",
            lambda _: a.DeleteAliasRequest(name=ALIAS),
            ALIAS,
            {"adapter_digest": ...},
        ),
        Deed("AdapterService.ShareAdapter", sharing(a.ShareAdapterRequest), "{adapter}", after={"tenant": "globex"}),
        Deed(
            "AdapterService.RevokeAdapterShare",
            sharing(a.RevokeAdapterShareRequest),
            "{adapter}",
            {"tenant": "globex"},
            who="tenant-admin",
        ),
        Deed("AdapterService.RevokeAdapterShare", sharing(a.RevokeAdapterShareRequest)),
        Deed(
            "ExportService.CreateExport",
            exported,
            "tenants/acme/exports/whole",
            after={"source": "{adapter}", "base_model": "baseModels/tiny", "format": "SAFETENSORS", "state": "PENDING"},
        ),
        Deed(
            "ExportService.DeleteExport",
            lambda _: e.DeleteExportRequest(name="tenants/acme/exports/whole"),
            "tenants/acme/exports/whole",
            {"source": "{adapter}", "base_model": "baseModels/tiny", "format": "SAFETENSORS", "state": "PENDING"},
        ),
        Deed(
            "AdapterService.DeleteAdapter",
            named[a.DeleteAdapterRequest],
            "{adapter}",
            {
                "digest": ...,
                "display_name": "Mine",
                "base_model": "baseModels/tiny",
                "rank": 2,
                "size_bytes": ...,
                "deployment": "UNDEPLOYED",
            },
        ),
    ]
