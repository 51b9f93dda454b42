"""Every call that changes something, in an order that works, and what the trail must say of each."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from tests.server_fakes import LINES, TINY

from trellis.artifacts import ADAPTER_FILES
from trellis.v1 import (
    access_pb2,
    adapter_pb2 as a,
    api_key_pb2 as k,
    base_model_pb2 as b,
    dataset_pb2 as d,
    export_pb2 as e,
    tenant_pb2 as t,
    tuning_job_pb2 as j,
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
    pb = a.ImportAdapterRequest
    messages: list[Message] = [pb(header=pb.Header(parent="tenants/acme", base_model=base, display_name="Mine"))]
    for name in ADAPTER_FILES:
        data = (folder / name).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        messages += [pb(file=pb.FileHeader(filename=name, size_bytes=len(data), sha256=sha256)), pb(chunk=data)]
    return messages


def upload_messages(dataset: str, *, allow_missing: bool = False) -> list[Message]:
    pb = d.UploadDatasetVersionRequest
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
ALIAS, BASE, EXPORT = "tenants/acme/aliases/support", "baseModels/second", "tenants/acme/exports/whole"
QUEUED = {
    "state": "QUEUED",
    "priority": 0,
    "deploy": False,
    "base_model": "baseModels/tiny",
    "training_dataset": ...,
}
ADAPTER = {
    "digest": ...,
    "base_model": "baseModels/tiny",
    "rank": 2,
    "size_bytes": ...,
    "deployment": "UNDEPLOYED",
}


def story(folder: Path) -> list[Deed]:
    """Every changing method, and its repeats that change nothing; `folder` has an adapter to import."""
    return [*tenants(), *base_models(), *datasets(), *jobs(), *adapters(folder), *exports(), *last()]


def of(kind: Any, key: str, **fields: Any) -> Builder:
    """A request for what has that name."""
    return lambda names: kind(name=names[key], **fields)


def tenants() -> list[Deed]:
    create = t.CreateTenantRequest(
        tenant_id="initech", tenant=t.Tenant(display_name="Initech", quota=t.Quota(open_jobs=7)), request_id="once"
    )
    made = {"display_name": "Initech", "serving_weight": 1.0, "training_weight": 1.0, "quota.open_jobs": 7}
    before = {"display_name": "Initech", "quota.open_jobs": 7}
    renamed = {"display_name": "Initech Ltd", "quota.open_jobs": 8}
    tenant = t.Tenant(name=TENANT, display_name="Initech Ltd", quota=t.Quota(open_jobs=8))
    update = masked(t.UpdateTenantRequest(tenant=tenant), "display_name", "quota")
    secret_name = "see trk_0123456789abcdefghijklmnopqrstuvwxyz and more"
    create_key = k.CreateApiKeyRequest(
        parent=TENANT, api_key=k.ApiKey(display_name=secret_name, role=access_pb2.ROLE_MEMBER)
    )
    rotate, revoke = of(k.RotateApiKeyRequest, "key"), of(k.RevokeApiKeyRequest, "key")
    told = {"display_name": "see [secret] and more", "role": "MEMBER"}
    rotated = {"rotate_time": ..., "old_secret_expire_time": ...}
    return [
        Deed("TenantService.CreateTenant", lambda _: create, TENANT, after=made),
        Deed("TenantService.CreateTenant", lambda _: create),
        Deed("TenantService.UpdateTenant", lambda _: update, TENANT, before, renamed),
        Deed("TenantService.UpdateTenant", lambda _: update),
        Deed("ApiKeyService.CreateApiKey", lambda _: create_key, KEY, after=told, keep="key"),
        Deed("ApiKeyService.RotateApiKey", rotate, KEY, after=rotated),
        Deed("ApiKeyService.RevokeApiKey", revoke, KEY, after={"revoke_time": ...}),
        Deed("ApiKeyService.RevokeApiKey", revoke),
        Deed("TenantService.DeleteTenant", lambda _: t.DeleteTenantRequest(name=TENANT), TENANT, {**made, **renamed}),
    ]


def base_models() -> list[Deed]:
    create = b.CreateBaseModelRequest(
        base_model_id="second", base_model=b.BaseModel(source=str(TINY), display_name="B")
    )
    made = {"display_name": "B", "source": str(TINY), "revision": ..., "architecture": ..., "is_default": False}
    return [
        Deed("BaseModelService.CreateBaseModel", lambda _: create, BASE, after=made),
        Deed("BaseModelService.DeleteBaseModel", lambda _: b.DeleteBaseModelRequest(name=BASE), BASE, made),
    ]


def datasets() -> list[Deed]:
    create = d.CreateDatasetRequest(parent="tenants/acme", dataset_id="fresh", dataset=d.Dataset(display_name="x" * 90))
    with_version = "tenants/acme/datasets/made"
    version = {
        "filename": "q.jsonl",
        "file_format": "jsonl",
        "size_bytes": len(LINES),
        "base_model": "baseModels/tiny",
    }
    return [
        Deed("DatasetService.CreateDataset", lambda _: create, DATASET, after={"display_name": "x" * 90}, who="member"),
        Deed(
            "DatasetService.UploadDatasetVersion",
            lambda _: upload_messages(DATASET),
            f"{DATASET}/versions/{SHA}",
            after=version,
        ),
        Deed("DatasetService.UploadDatasetVersion", lambda _: upload_messages(DATASET)),
        Deed(
            "DatasetService.UploadDatasetVersion",
            lambda _: upload_messages(with_version, allow_missing=True),
            f"{with_version}/versions/{SHA}",
            after=version,
            also=(with_version,),
        ),
        Deed(
            "DatasetService.DeleteDataset",
            lambda _: d.DeleteDatasetRequest(name=with_version),
            with_version,
            {"latest_sha256": SHA},
        ),
    ]


def jobs() -> list[Deed]:
    """One from its creation to its deletion; then `other`, which runs and has a checkpoint."""
    create = j.CreateTuningJobRequest(
        parent="tenants/acme",
        tuning_job_id="told",
        tuning_job=j.TuningJob(training_dataset="tenants/acme/datasets/questions"),
    )
    pause, resume = of(j.PauseTuningJobRequest, "job"), of(j.ResumeTuningJobRequest, "job")
    cancel, delete = of(j.CancelTuningJobRequest, "job"), of(j.DeleteTuningJobRequest, "job")
    preempt = of(j.PreemptTuningJobRequest, "other")
    promoted = {**ADAPTER, "display_name": "Half way", "tuning_job": "{other}"}

    def pin(names: dict[str, str]) -> Message:
        checkpoint = j.Checkpoint(name=names["checkpoint"], pinned=True)
        return masked(j.UpdateCheckpointRequest(checkpoint=checkpoint), "pinned")

    return [
        Deed("TuningJobService.CreateTuningJob", lambda _: create, JOB, after=QUEUED, keep="job"),
        Deed("TuningJobService.PauseTuningJob", pause, JOB, state("QUEUED"), state("PAUSED")),
        Deed("TuningJobService.PauseTuningJob", pause),
        Deed("TuningJobService.ResumeTuningJob", resume, JOB, state("PAUSED"), state("QUEUED")),
        Deed("TuningJobService.CancelTuningJob", cancel, JOB, state("QUEUED"), state("CANCELLED")),
        Deed("TuningJobService.CancelTuningJob", cancel),
        Deed("TuningJobService.DeleteTuningJob", delete, JOB, {**QUEUED, "state": "CANCELLED"}),
        Deed("TuningJobService.UpdateCheckpoint", pin, "{checkpoint}", {"pinned": False}, {"pinned": True}),
        Deed("TuningJobService.UpdateCheckpoint", pin),
        Deed(
            "TuningJobService.PromoteCheckpoint",
            of(j.PromoteCheckpointRequest, "checkpoint", display_name="Half way"),
            "{promoted}",
            after=promoted,
            keep="promoted",
        ),
        Deed("TuningJobService.PromoteCheckpoint", of(j.PromoteCheckpointRequest, "checkpoint")),
        Deed("TuningJobService.PreemptTuningJob", preempt, "{other}", state("RUNNING"), state("PREEMPTING")),
        Deed("TuningJobService.PreemptTuningJob", preempt),
    ]


def adapters(folder: Path) -> list[Deed]:
    imported = {**ADAPTER, "display_name": "Mine"}
    undeployed, deploying = {"deployment": "UNDEPLOYED"}, {"deployment": "DEPLOYING"}
    guest = {"tenant": "tenants/globex"}
    deploy, undeploy = of(a.DeployAdapterRequest, "adapter"), of(a.UndeployAdapterRequest, "adapter")
    share, unshare = of(a.ShareAdapterRequest, "adapter", **guest), of(a.RevokeAdapterShareRequest, "adapter", **guest)
    delete_alias = a.DeleteAliasRequest(name=ALIAS)

    def set_alias(names: dict[str, str]) -> Message:
        return a.SetAliasRequest(alias=a.Alias(name=ALIAS, adapter=names["adapter"]))

    return [
        Deed(
            "AdapterService.ImportAdapter",
            lambda _: adapter_files(folder),
            "{adapter}",
            after=imported,
            keep="adapter",
        ),
        Deed("AdapterService.ImportAdapter", lambda _: adapter_files(folder)),
        Deed("AdapterService.DeployAdapter", deploy, "{adapter}", undeployed, deploying),
        Deed("AdapterService.DeployAdapter", deploy),
        Deed("AdapterService.UndeployAdapter", undeploy, "{adapter}", deploying, undeployed),
        Deed("AdapterService.UndeployAdapter", undeploy),
        Deed("AdapterService.SetAlias", set_alias, ALIAS, after={"adapter_digest": ...}),
        Deed("AdapterService.SetAlias", set_alias),
        Deed("AdapterService.DeleteAlias", lambda _: delete_alias, ALIAS, {"adapter_digest": ...}),
        Deed("AdapterService.ShareAdapter", share, "{adapter}", after={"tenant": "globex"}),
        Deed("AdapterService.RevokeAdapterShare", unshare, "{adapter}", {"tenant": "globex"}, who="tenant-admin"),
        Deed("AdapterService.RevokeAdapterShare", unshare),
    ]


def exports() -> list[Deed]:
    made = {"source": "{adapter}", "base_model": "baseModels/tiny", "format": "SAFETENSORS", "state": "PENDING"}

    def create(names: dict[str, str]) -> Message:
        export = e.Export(source=names["adapter"])
        return e.CreateExportRequest(parent="tenants/acme", export_id="whole", export=export)

    return [
        Deed("ExportService.CreateExport", create, EXPORT, after=made),
        Deed("ExportService.DeleteExport", lambda _: e.DeleteExportRequest(name=EXPORT), EXPORT, made),
    ]


def last() -> list[Deed]:
    """The adapter, which aliases, shares and exports need, goes after them."""
    imported = {**ADAPTER, "display_name": "Mine"}
    return [Deed("AdapterService.DeleteAdapter", of(a.DeleteAdapterRequest, "adapter"), "{adapter}", imported)]
