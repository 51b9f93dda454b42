"""Every call that changes something leaves what it changed in the trail, over a real socket; those that change nothing, nothing."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.contract.app.test_checkpoints import Run
from tests.rpc_server import Door, open_door, refusal
from tests.server_fakes import LINES, TINY, World, admit, submit, upload, validate, write_adapter

from trellis.artifacts import ADAPTER_FILES
from trellis.bases import read_base
from trellis.server.app import attempts
from trellis.server.app.attempts import Process
from trellis.server.domain.audit import AuditEvent, AuditQuery
from trellis.server.domain.base_model import BaseModel
from trellis.server.rpc.servicers import SERVICES
from trellis.v1 import (
    access_pb2,
    adapter_pb2,
    api_key_pb2,
    audit_pb2,
    base_model_pb2,
    dataset_pb2,
    export_pb2,
    tenant_pb2,
    tuning_job_pb2,
)

METHODS = {method.full_name: method for service in SERVICES for method in service.descriptor.methods}
READING = {"GetApiKey", "ListApiKeys", "ListAuditEvents"}
"""Methods of the scope MANAGE that change nothing."""
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


def path_of(method: str) -> str:
    service, _, name = METHODS[f"trellis.v1.{method}"].full_name.rpartition(".")
    return f"/{service}/{name}"


async def call(door: Door, method: str, request: Message | Iterable[Message], who: str, request_id: str = "") -> Any:
    """The answer, of a stream its last message."""
    descriptor = METHODS[f"trellis.v1.{method}"]
    codec: dict[str, Any] = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": GetMessageClass(descriptor.output_type).FromString,
    }
    metadata = (*door.key(who), *((("x-request-id", request_id),) if request_id else ()))
    if descriptor.client_streaming:
        return await door.channel.stream_unary(path_of(method), **codec)(iter(request), metadata=metadata)  # type: ignore[arg-type]
    return await door.channel.unary_unary(path_of(method), **codec)(request, metadata=metadata)


async def trail(world: World, query: AuditQuery | None = None) -> list[AuditEvent]:
    """The newest events first."""
    async with world.context.units(write=False) as unit:
        page = await unit.audit.list(query or AuditQuery(everything=True), 1000, None)
    return list(page.items)


async def events_of(world: World, request_id: str) -> list[AuditEvent]:
    return [event for event in await trail(world) if event.request_id == request_id]


@pytest.fixture
async def door(world: World, base: BaseModel) -> AsyncIterator[Door]:
    async with open_door(world) as opened:
        yield opened


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


def test_the_story_has_every_method_that_changes_something(tmp_path: Path) -> None:
    told = {f"trellis.v1.{deed.method}" for deed in story(tmp_path)}
    scopes = {name: method.GetOptions().Extensions[access_pb2.access].scope for name, method in METHODS.items()}
    changing = {name for name, scope in scopes.items() if scope in {access_pb2.SCOPE_WRITE, access_pb2.SCOPE_MANAGE}}
    assert told == {name for name in changing if name.rpartition(".")[2] not in READING}


def filled(values: dict[str, Any], names: dict[str, str], found: dict[str, Any]) -> dict[str, Any]:
    """What is expected, with names; `...` stands for whatever was found."""
    plain = {key: value.format(**names) if isinstance(value, str) else value for key, value in values.items()}
    return {key: found.get(key, "missing") if value is ... else value for key, value in plain.items()}


async def test_every_change_is_in_the_trail_once_and_what_changes_nothing_is_not(
    door: Door, base: BaseModel, tmp_path: Path
) -> None:
    names = await a_job_with_a_checkpoint(door.world, base, tmp_path)
    for number, deed in enumerate(story(write_adapter(tmp_path / "mine", read_base(str(TINY)), scale=0.5))):
        request_id = f"deed-{number}"
        answer = await call(door, deed.method, deed.request(names), deed.who, request_id)
        if deed.keep:
            names[deed.keep] = answer.api_key.name if deed.keep == "key" else answer.name
        found = await events_of(door.world, request_id)
        if not deed.resource:
            assert found == [], f"{deed.method}, number {number}, changed nothing"
            continue
        event, *others = found
        where = f"{deed.method}, number {number}"
        assert [one.resource for one in others] == list(deed.also), where
        assert event.resource == deed.resource.format(**names), where
        assert event.method == path_of(deed.method), where
        assert event.before == filled(deed.before, names, dict(event.before)), where
        assert event.after == filled(deed.after, names, dict(event.after)), where
        role = {"admin": "ADMIN", "member": "MEMBER", "tenant-admin": "TENANT_ADMIN"}[deed.who]
        assert (event.role, event.status, event.source) == (role, "OK", "127.0.0.1"), where
        assert event.principal.startswith("platform/apiKeys/" if deed.who == "admin" else "tenants/acme/apiKeys/")
        assert event.tenant == (None if event.resource.startswith("baseModels/") else event.resource.split("/")[1])


async def a_job_with_a_checkpoint(world: World, base: BaseModel, folder: Path) -> dict[str, str]:
    await validate(world.context, await upload(world.context, "acme"), base)
    job = await submit(world.context, "acme")
    _, caller = await admit(world.context, job)
    work = await attempts.start_attempt(world.context, caller, Process("1", "host", 1))
    run = Run(world, job, caller, work, folder / "checkpoints")
    await run.commit(5)
    return {"other": job.name, "checkpoint": run.name(5)}


async def test_a_change_that_fails_leaves_no_event(door: Door) -> None:
    request = tenant_pb2.CreateTenantRequest(tenant_id="acme")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(door, "TenantService.CreateTenant", request, "admin", "twice")
    assert refusal(caught.value).code == "ALREADY_EXISTS"
    assert await events_of(door.world, "twice") == []


async def test_a_use_case_that_records_nothing_is_found_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgets(*_: object, **__: object) -> None: ...

    monkeypatch.setattr("trellis.server.app.tenants.record", forgets)
    request = tenant_pb2.CreateTenantRequest(tenant_id="silent")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(door, "TenantService.CreateTenant", request, "admin")
    assert refusal(caught.value).code == "INTERNAL"


async def test_what_nobody_called_for_is_the_platforms(world: World, base: BaseModel) -> None:
    event = next(event for event in await trail(world) if event.resource == base.name)
    assert (event.principal, event.role, event.method, event.source) == ("platform", "", "FirstStart", "")


async def listed(door: Door, who: str, parent: str, **filters: Any) -> list[audit_pb2.AuditEvent]:
    request = audit_pb2.ListAuditEventsRequest(parent=parent, **filters)
    return list((await call(door, "AuditService.ListAuditEvents", request, who)).events)


async def test_events_are_listed_for_whom_they_are(door: Door) -> None:
    update = tenant_pb2.UpdateTenantRequest(tenant=tenant_pb2.Tenant(name="tenants/acme", display_name="Acme"))
    await call(door, "TenantService.UpdateTenant", update, "admin", "renamed")
    [event] = await listed(door, "tenant-admin", "tenants/acme", method="UpdateTenant")
    assert (event.resource, event.tenant, event.request_id) == ("tenants/acme", "tenants/acme", "renamed")
    assert (event.role, event.source) == (access_pb2.ROLE_ADMIN, ""), "where operators are is not the tenant's to know"
    assert json_format.MessageToDict(event.after) == {"display_name": "Acme"}
    assert await listed(door, "stranger", "tenants/globex", method="UpdateTenant") == []
    event.source = "127.0.0.1"
    assert event in await listed(door, "admin", "tenants/-")
    assert {one.tenant for one in await listed(door, "admin", "platform")} == {""}
    for who, parent in (
        ("stranger", "tenants/acme"),
        ("member", "tenants/acme"),
        ("tenant-admin", "platform"),
        ("tenant-admin", "tenants/-"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(door, who, parent)
        assert refusal(caught.value).code == "PERMISSION_DENIED"


async def test_pages_go_through_the_trail_both_ways(door: Door) -> None:
    everything = await listed(door, "admin", "tenants/-")
    request = audit_pb2.ListAuditEventsRequest(parent="tenants/-", page_size=2)
    found: list[audit_pb2.AuditEvent] = []
    while True:
        answer = await call(door, "AuditService.ListAuditEvents", request, "admin")
        found += answer.events
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert found == everything
    sequences = [event.sequence for event in everything]
    assert sequences == sorted(sequences, reverse=True)
    after = await listed(door, "admin", "tenants/-", after_sequence=sequences[-2])
    assert [event.sequence for event in after] == sorted(sequences)[2:]


async def test_a_later_tenant_does_not_see_what_an_earlier_one_of_its_name_did(door: Door) -> None:
    world = door.world
    await call(door, "TenantService.DeleteTenant", tenant_pb2.DeleteTenantRequest(name="tenants/globex"), "admin")
    world.clock.advance(60)
    await call(door, "TenantService.CreateTenant", tenant_pb2.CreateTenantRequest(tenant_id="globex"), "admin")
    new = api_key_pb2.ApiKey(role=access_pb2.ROLE_TENANT_ADMIN)
    create = api_key_pb2.CreateApiKeyRequest(parent="tenants/globex", api_key=new)
    door.secrets["newcomer"] = (await call(door, "ApiKeyService.CreateApiKey", create, "admin")).secret
    methods = [event.method.rpartition("/")[2] for event in await listed(door, "newcomer", "tenants/globex")]
    assert methods == ["CreateApiKey", "CreateTenant"]
    methods = [event.method.rpartition("/")[2] for event in await listed(door, "admin", "tenants/globex")]
    assert "DeleteTenant" in methods
