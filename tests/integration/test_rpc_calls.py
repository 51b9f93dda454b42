"""The API over a real socket: data in, jobs watched, errors told."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY
from tests.rpc_server import Door, make_key, make_named_key, refusal
from tests.server_fakes import LINES, TINY, admit, submit, upload, validate, write_adapter

from trellis.bases import read_base
from trellis.server.app.context import AppSettings
from trellis.server.domain.caller import Role
from trellis.v1 import adapter_pb2, api_key_pb2, dataset_pb2, inference_pb2, tenant_pb2, tuning_job_pb2, worker_pb2
from trellis.v1.adapter_pb2_grpc import AdapterServiceStub
from trellis.v1.api_key_pb2_grpc import ApiKeyServiceStub
from trellis.v1.dataset_pb2_grpc import DatasetServiceStub
from trellis.v1.inference_pb2_grpc import InferenceServiceStub
from trellis.v1.tenant_pb2_grpc import TenantServiceStub
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceStub
from trellis.v1.worker_pb2_grpc import WorkerServiceStub

Header = dataset_pb2.UploadDatasetVersionRequest.Header
Upload = dataset_pb2.UploadDatasetVersionRequest
DATASET = "tenants/acme/datasets/questions"


@pytest.fixture
def settings() -> AppSettings:
    return AppSettings(capacity_cpus=2.0)


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def read_all(stream: Any) -> list[Any]:
    return [message async for message in stream]


def header(data: bytes, **changes: Any) -> Upload:
    fields = {"parent": DATASET, "filename": "q.jsonl", "size_bytes": len(data), "allow_missing": True}
    return Upload(header=Header(**{**fields, "sha256": hashlib.sha256(data).hexdigest(), **changes}))


def chunks(data: bytes, size: int = 300) -> list[Upload]:
    return [Upload(chunk=data[start : start + size]) for start in range(0, len(data), size)]


def upload_call(door: Door, *messages: Upload) -> Any:
    return DatasetServiceStub(door.channel).UploadDatasetVersion(iter(messages), metadata=door.key("member"))


async def test_data_goes_in_and_comes_back(door: Door) -> None:
    version = await upload_call(door, header(LINES), *chunks(LINES))
    assert (version.state, version.format) == (
        dataset_pb2.DatasetVersion.STATE_VALIDATING,
        dataset_pb2.FILE_FORMAT_JSONL,
    )
    stub, key = DatasetServiceStub(door.channel), door.key("member")
    pieces = await read_all(
        stub.DownloadDatasetVersion(dataset_pb2.DownloadDatasetVersionRequest(name=version.name), metadata=key)
    )
    assert pieces[0].dataset_version == version
    assert b"".join(piece.chunk for piece in pieces) == LINES
    async with door.world.context.units(write=False) as unit:
        stored = await unit.datasets.get_version("acme", "questions", version.sha256)
        base = await unit.base_models.default()
    assert stored is not None
    assert base is not None
    await validate(door.world.context, stored, base)
    request = dataset_pb2.GetDatasetReportRequest(name=f"{DATASET}/versions/latest/report")
    report = await stub.GetDatasetReport(request, metadata=key)
    assert (report.state, report.valid, report.line_count) == (dataset_pb2.DatasetReport.STATE_DONE, True, 20)
    assert any(segment.trained for segment in report.previews[0].segments)
    dataset = await stub.GetDataset(dataset_pb2.GetDatasetRequest(name=DATASET), metadata=key)
    assert dataset.latest_version == version.name


async def until_begun(stub: Any, ask: Any, key: Any) -> None:
    """Until the server has the upload's header."""
    async with asyncio.timeout(60):
        while True:
            try:
                await stub.GetUpload(ask, metadata=key)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(0.01)
            else:
                return


async def test_an_upload_that_is_cut_goes_on(door: Door) -> None:
    cut = asyncio.Event()

    async def half() -> AsyncIterator[Upload]:
        yield header(LINES)
        yield Upload(chunk=LINES[:1000])
        cut.set()
        await asyncio.Event().wait()

    stub, key = DatasetServiceStub(door.channel), door.key("member")
    call = stub.UploadDatasetVersion(half(), metadata=key)
    await cut.wait()
    sha256 = hashlib.sha256(LINES).hexdigest()
    ask = dataset_pb2.GetUploadRequest(parent=DATASET, sha256=sha256)
    await until_begun(stub, ask, key)
    await asyncio.sleep(0.3)  # for the chunk to arrive, on a real socket
    call.cancel()
    held = await stub.GetUpload(ask, metadata=key)
    while held.committed_bytes == 0:
        await asyncio.sleep(0.01)
        held = await stub.GetUpload(ask, metadata=key)
    assert held.committed_bytes == 1000
    version = await upload_call(door, header(LINES, offset=1000), *chunks(LINES[1000:]))
    assert version.sha256 == sha256


async def test_wrong_uploads_say_why(door: Door) -> None:
    empty = await refused(upload_call(door, header(b"")))
    assert (empty.code, empty.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert [v.field for v in empty.details["BadRequest"].field_violations] == ["header.size_bytes"]
    wrong = await refused(upload_call(door, header(LINES, sha256="0" * 64), *chunks(LINES)))
    assert (wrong.code, wrong.reason) == ("DATA_LOSS", "CHECKSUM_MISMATCH")
    cut = await refused(upload_call(door, header(LINES), *chunks(LINES[:500])))
    assert (cut.code, cut.details["ErrorInfo"].metadata["committed_bytes"]) == ("ABORTED", "500")
    nothing = await refused(upload_call(door))
    assert nothing.code == "INVALID_ARGUMENT"
    headless = await refused(upload_call(door, Upload(chunk=b"x")))
    assert headless.code == "INVALID_ARGUMENT"
    twice = await refused(upload_call(door, header(LINES, offset=500), header(LINES)))
    assert twice.code == "INVALID_ARGUMENT"


def job_request(**changes: Any) -> tuning_job_pb2.CreateTuningJobRequest:
    fields = {"parent": "tenants/acme", "tuning_job": tuning_job_pb2.TuningJob(training_dataset=DATASET)}
    return tuning_job_pb2.CreateTuningJobRequest(**{**fields, **changes})


async def test_wrong_settings_are_named_all_at_once(door: Door) -> None:
    await upload(door.world.context, "acme")
    stub = TuningJobServiceStub(door.channel)
    for rank in (0, 10_000):
        spec = tuning_job_pb2.TrainingSettings(lora=tuning_job_pb2.LoraSpec(rank=rank), learning_rate=float("nan"))
        job = tuning_job_pb2.TuningJob(training_dataset=DATASET, supervised=spec)
        found = await refused(stub.CreateTuningJob(job_request(tuning_job=job), metadata=door.key("member")))
        details: BadRequest = found.details["BadRequest"]
        assert {v.field for v in details.field_violations} == {
            "tuning_job.supervised.lora.rank", "tuning_job.supervised.learning_rate"
        }  # fmt: skip
    job = tuning_job_pb2.TuningJob(training_dataset=DATASET, base_model="baseModels/none")
    found = await refused(stub.CreateTuningJob(job_request(tuning_job=job), metadata=door.key("member")))
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "BASE_MODEL_UNAVAILABLE")
    job = tuning_job_pb2.TuningJob(training_dataset="tenants/globex/datasets/questions")
    found = await refused(stub.CreateTuningJob(job_request(tuning_job=job), metadata=door.key("member")))
    assert (found.code, found.reason) == ("PERMISSION_DENIED", "ACCESS_DENIED")
    job = tuning_job_pb2.TuningJob(training_dataset="tenants/acme/datasets/../../x")
    found = await refused(stub.CreateTuningJob(job_request(tuning_job=job), metadata=door.key("member")))
    assert found.reason == "INVALID_NAME"


async def test_the_same_request_id_makes_one_job(door: Door) -> None:
    await upload(door.world.context, "acme")
    stub, key = TuningJobServiceStub(door.channel), door.key("member")
    made = await asyncio.gather(*(stub.CreateTuningJob(job_request(request_id="r"), metadata=key) for _ in range(8)))
    assert len({job.name for job in made}) == 1
    assert not made[0].supervised.lora.HasField("rank")  # to be chosen when the report on the data is there
    other = job_request(request_id="r", tuning_job_id="other")
    assert (await refused(stub.CreateTuningJob(other, metadata=key))).reason == "REQUEST_ID_REUSED"


async def test_how_a_job_is_trained_comes_back_as_it_was_asked_for(door: Door) -> None:
    version = await upload(door.world.context, "acme")
    stub, key = TuningJobServiceStub(door.channel), door.key("member")
    pb = tuning_job_pb2
    settings = pb.TrainingSettings(epochs=2, evaluation_steps=7, early_stopping_patience=3, replay_fraction=0.5)
    preference = pb.PreferenceSpec(
        training=settings, loss="LOSS_DPO", beta=0.2, label_smoothing=0.125, reference_free=True
    )
    spread = pb.DistributedSpec(
        workers=2, zero_stage=2, offload="OFFLOAD_OPTIMIZER", gradient_checkpointing=False, config_json="{}"
    )
    job = pb.TuningJob(training_dataset=DATASET, replay_dataset=DATASET, preference=preference, distributed=spread)
    made = await stub.CreateTuningJob(job_request(tuning_job=job), metadata=key)
    assert made.WhichOneof("method") == "preference"
    assert (made.distributed, made.placement) == (spread, pb.TuningJob.PLACEMENT_DISTRIBUTED)
    assert made.replay_dataset == version.name
    for field, value in settings.ListFields():
        assert getattr(made.preference.training, field.name) == value
    assert not made.preference.training.HasField("learning_rate")
    made.preference.ClearField("training")
    preference.ClearField("training")
    assert made.preference == preference
    full = pb.TuningJob(training_dataset=DATASET, pretraining={"training": {"full": True}})
    made = await stub.CreateTuningJob(job_request(tuning_job=full), metadata=key)
    assert (made.pretraining.training.full, made.pretraining.training.HasField("lora")) == (True, False)
    assert made.distributed.workers == 1
    unknown = pb.TuningJob(training_dataset=DATASET, preference=pb.PreferenceSpec(loss=3))  # type: ignore[arg-type]
    found = await refused(stub.CreateTuningJob(job_request(tuning_job=unknown), metadata=key))
    assert found.details["BadRequest"].field_violations[0].field == "tuning_job.preference.loss"


async def test_a_job_is_watched_from_end_to_end_and_again_from_anywhere(door: Door) -> None:
    context = door.world.context
    await upload(context, "acme")
    job = await submit(context, "acme")
    token, _ = await admit(context, job)
    worker, key = WorkerServiceStub(door.channel), (("authorization", f"Bearer {token}"),)
    work = await worker.StartAttempt(worker_pb2.StartAttemptRequest(hostname="h"), metadata=key)
    assert work.heartbeat_seconds == 10
    report = worker_pb2.ReportAttemptRequest(report=1, log_text="hello\n")
    report.metrics.add(step=1, values={"train_loss": 0.5})
    report.progress.step = 1
    report.progress.phase = "training"
    report.checkpoints.add(step=1, key=f"{work.checkpoint_prefix}/step-1", size_bytes=3)
    for _ in range(2):
        await worker.ReportAttempt(report, metadata=key)

    stub, mine = TuningJobServiceStub(door.channel), door.key("member")
    watching = asyncio.create_task(
        read_all(stub.WatchTuningJob(tuning_job_pb2.WatchTuningJobRequest(name=job.name), metadata=mine))
    )
    await worker.FailAttempt(worker_pb2.FailAttemptRequest(cause=worker_pb2.END_CAUSE_USER), metadata=key)
    events = await watching
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert {event.WhichOneof("detail") for event in events} == {"state", "progress", "metrics", "checkpoint"}
    for after in range(len(events) + 1):
        request = tuning_job_pb2.WatchTuningJobRequest(name=job.name, after_sequence=after)
        assert await read_all(stub.WatchTuningJob(request, metadata=mine)) == events[after:]
    logs = tuning_job_pb2.ReadTuningJobLogsRequest(name=job.name, follow=True)
    assert [piece.text for piece in await read_all(stub.ReadTuningJobLogs(logs, metadata=mine))] == ["hello\n"]
    failed = await stub.GetTuningJob(tuning_job_pb2.GetTuningJobRequest(name=job.name), metadata=mine)
    assert (failed.state, failed.error.code) == (tuning_job_pb2.TuningJob.STATE_FAILED, 13)
    late = await refused(worker.ReportAttempt(report, metadata=key))
    assert (late.code, late.reason) == ("ABORTED", "ATTEMPT_FENCED")


async def test_an_adapter_is_imported_and_downloaded(door: Door, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", read_base(str(TINY)))
    stub, key = AdapterServiceStub(door.channel), door.key("member")

    def messages() -> list[adapter_pb2.ImportAdapterRequest]:
        found = [adapter_pb2.ImportAdapterRequest(header={"parent": "tenants/acme", "base_model": "baseModels/tiny"})]
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            facts = {"filename": path.name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            found.append(adapter_pb2.ImportAdapterRequest(file=facts))
            found += [adapter_pb2.ImportAdapterRequest(chunk=data[n : n + 9999]) for n in range(0, len(data), 9999)]
        return found

    adapter = await stub.ImportAdapter(iter(messages()), metadata=key)
    assert adapter.manifest["base_model"] == "baseModels/tiny"
    request = adapter_pb2.DownloadAdapterRequest(name=adapter.name)
    pieces = await read_all(stub.DownloadAdapter(request, metadata=key))
    assert [piece.file.filename for piece in pieces if piece.HasField("file")] == [
        "manifest.json", "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip
    call = InferenceServiceStub(door.channel).Generate(
        inference_pb2.GenerateRequest(model=adapter.name, prompt="a"), metadata=key
    )
    assert (await refused(read_all(call))).reason == "ADAPTER_NOT_DEPLOYED"
    await stub.DeployAdapter(adapter_pb2.DeployAdapterRequest(name=adapter.name), metadata=key)
    call = InferenceServiceStub(door.channel).Generate(
        inference_pb2.GenerateRequest(model=adapter.name, prompt="a"), metadata=key
    )
    starting = await refused(read_all(call))
    assert (starting.code, starting.details["RetryInfo"].retry_delay.seconds) == ("UNAVAILABLE", 2)
    (folder / "adapter_model.safetensors").write_bytes(b"\x80\x04\x95pickle")
    assert (await refused(stub.ImportAdapter(iter(messages()), metadata=key))).reason == "ADAPTER_INVALID"


async def test_a_tenant_gets_its_share_and_engines_hear_of_it(door: Door) -> None:
    tenants, admin = TenantServiceStub(door.channel), door.key("admin")
    made = await tenants.CreateTenant(
        tenant_pb2.CreateTenantRequest(tenant_id="light", tenant={"serving_weight": 0.5}), metadata=admin
    )
    assert made.serving_weight == 0.5
    acme = await tenants.GetTenant(tenant_pb2.GetTenantRequest(name="tenants/acme"), metadata=admin)
    assert acme.serving_weight == 1.0
    request = tenant_pb2.UpdateTenantRequest(
        tenant={"name": acme.name, "display_name": "not this", "serving_weight": 2.5, "etag": acme.etag},
        update_mask={"paths": ["serving_weight"]},
    )
    assert (await refused(tenants.UpdateTenant(request, metadata=door.key("tenant-admin")))).code == "PERMISSION_DENIED"
    changed = await tenants.UpdateTenant(request, metadata=admin)
    assert (changed.serving_weight, changed.display_name) == (2.5, acme.display_name)
    again = await refused(tenants.UpdateTenant(request, metadata=admin))
    assert (again.code, again.reason) == ("ABORTED", "ETAG_MISMATCH")
    request.update_mask.paths.append("create_time")
    wrong = await refused(tenants.UpdateTenant(request, metadata=admin))
    assert [v.field for v in wrong.details["BadRequest"].field_violations] == ["update_mask"]

    generate = InferenceServiceStub(door.channel).Generate
    asked = inference_pb2.GenerateRequest(model="baseModels/tiny", prompt="a", n=2)
    for timeout in (None, 60.0):
        await read_all(generate(asked, metadata=door.key("member"), timeout=timeout))
    (_, patient), (_, hurried) = door.world.engines.requests
    assert (patient.tenant_id, patient.tenant_weight, patient.generate.n) == ("acme", 2.5, 2)
    assert patient.deadline_seconds == 0.0
    assert 0.0 < hurried.deadline_seconds < 61.0


async def test_dead_keys_open_nothing(door: Door) -> None:
    stub = TenantServiceStub(door.channel)
    request = tenant_pb2.GetTenantRequest(name="tenants/acme")

    async def reason(secret: str) -> str:
        metadata = (("authorization", f"Bearer {secret}"),)
        found = await refused(stub.GetTenant(request, metadata=metadata))
        assert found.code == "UNAUTHENTICATED"
        return str(found.reason)

    until = door.world.clock.now() + timedelta(seconds=1)
    mortal = await make_key(door.world, "acme", Role.MEMBER, expire_time=until)
    name, revoked = await make_named_key(door.world, "acme", Role.MEMBER)
    await ApiKeyServiceStub(door.channel).RevokeApiKey(
        api_key_pb2.RevokeApiKeyRequest(name=name), metadata=door.key("tenant-admin")
    )
    door.world.clock.advance(1)
    assert await reason(revoked) == "API_KEY_REVOKED"
    assert await reason(mortal) == "API_KEY_EXPIRED"
    assert await reason("nonsense") == "API_KEY_INVALID"


async def test_the_request_id_comes_back(door: Door) -> None:
    stub = TenantServiceStub(door.channel)
    request = tenant_pb2.GetTenantRequest(name="tenants/acme")
    call = stub.GetTenant(request, metadata=(*door.key("member"), ("x-request-id", "mine-1")))
    await call
    assert dict(await call.initial_metadata())["x-request-id"] == "mine-1"
    for unsound in ("a" * 65, "a b"):
        call = stub.GetTenant(request, metadata=(*door.key("member"), ("x-request-id", unsound)))
        await call
        assert dict(await call.initial_metadata())["x-request-id"] != unsound
    found = await refused(stub.GetTenant(request, metadata=(("x-request-id", "mine-2"),)))
    assert found.request_id == "mine-2"


async def test_a_fault_of_ours_tells_its_request_id_and_nothing_else(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("the secret sauce")

    monkeypatch.setattr("trellis.server.app.tenants.get_tenant", broken)
    stub = TenantServiceStub(door.channel)
    found = await refused(stub.GetTenant(tenant_pb2.GetTenantRequest(name="tenants/acme"), metadata=door.key("member")))
    assert (found.code, found.reason) == ("INTERNAL", "INTERNAL")
    assert "sauce" not in repr(found)
    assert found.details["ErrorInfo"].metadata["request_id"] == found.request_id


async def test_huge_complaints_still_fit_the_wire(door: Door) -> None:
    await upload(door.world.context, "acme")
    lora = tuning_job_pb2.LoraSpec(target_modules=[f"ß{'x' * 300} {n}" for n in range(500)])
    job = tuning_job_pb2.TuningJob(training_dataset=DATASET, supervised={"lora": lora})
    stub = TuningJobServiceStub(door.channel)
    found = await refused(stub.CreateTuningJob(job_request(tuning_job=job), metadata=door.key("member")))
    assert found.code == "INVALID_ARGUMENT"
    assert len(found.details["BadRequest"].field_violations) >= 5


async def test_health_and_reflection_need_no_key(door: Door) -> None:
    health = health_pb2_grpc.HealthStub(door.channel)
    for service in ("", "trellis.v1.TuningJobService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(door.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in reflection.ServerReflectionInfo(iter([ask])):
        names = {service.name for service in answer.list_services_response.service}
        assert "trellis.v1.DatasetService" in names
        assert "trellis.v1.EngineService" not in names
        break


async def test_calls_are_counted(door: Door) -> None:
    labels = {"method": "/trellis.v1.TenantService/GetTenant", "status": "OK"}
    before = REGISTRY.get_sample_value("trellis_rpc_calls_total", labels) or 0
    stub = TenantServiceStub(door.channel)
    await stub.GetTenant(tenant_pb2.GetTenantRequest(name="tenants/acme"), metadata=door.key("member"))
    assert REGISTRY.get_sample_value("trellis_rpc_calls_total", labels) == before + 1
    assert REGISTRY.get_sample_value("trellis_rpc_in_flight", {"method": labels["method"]}) == 0
