"""What the SDK is made of: names, types, and that both clients are one."""

import dataclasses
import importlib
import inspect
import pickle
import typing
from enum import StrEnum
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

import trellis
import trellis.client
from trellis.client import _client, types
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.v1 import (
    adapter_pb2,
    api_key_pb2,
    audit_pb2,
    base_model_pb2,
    dataset_pb2,
    export_pb2,
    inference_pb2,
    tenant_pb2,
    trainer_pb2,
    tuning_job_pb2,
    usage_pb2,
)

NOUNS = (
    "tenants",
    "api_keys",
    "base_models",
    "datasets",
    "jobs",
    "adapters",
    "aliases",
    "exports",
    "trainers",
    "audit",
    "usage",
)
MODULES = (
    "_tenants", "_api_keys", "_base_models", "_datasets", "_upload", "_jobs", "_watch", "_adapters", "_adapter_files",
    "_aliases", "_generate", "_exports", "_export_files", "_trainers", "_audit", "_usage",
)  # fmt: skip
MESSAGES: dict[type, type[Message]] = {
    types.Tenant: tenant_pb2.Tenant,
    types.Quota: tenant_pb2.Quota,
    types.Budget: tenant_pb2.Budget,
    types.QuotaStatus: usage_pb2.QuotaStatus,
    types.LimitStatus: usage_pb2.LimitStatus,
    types.ApiKey: api_key_pb2.ApiKey,
    types.CreatedApiKey: api_key_pb2.CreateApiKeyResponse,
    types.BaseModel: base_model_pb2.BaseModel,
    types.AuditEvent: audit_pb2.AuditEvent,
    types.UsageRow: usage_pb2.UsageRow,
    types.LedgerEntry: usage_pb2.LedgerEntry,
    types.Statement: usage_pb2.Statement,
    types.StatementLine: usage_pb2.Statement.Line,
    types.AdapterShare: adapter_pb2.AdapterShare,
    types.Dataset: dataset_pb2.Dataset,
    types.DatasetVersion: dataset_pb2.DatasetVersion,
    types.Upload: dataset_pb2.Upload,
    types.DatasetReport: dataset_pb2.DatasetReport,
    types.LineError: dataset_pb2.DatasetReport.LineError,
    types.CodeCount: dataset_pb2.DatasetReport.CodeCount,
    types.Lengths: dataset_pb2.DatasetReport.Lengths,
    types.Preview: dataset_pb2.DatasetReport.Preview,
    types.Segment: dataset_pb2.DatasetReport.Segment,
    types.TuningJob: tuning_job_pb2.TuningJob,
    types.TrainingSettings: tuning_job_pb2.TrainingSettings,
    types.LoraSpec: tuning_job_pb2.LoraSpec,
    types.PreferenceSpec: tuning_job_pb2.PreferenceSpec,
    types.PretrainingSpec: tuning_job_pb2.PretrainingSpec,
    types.DistributedSpec: tuning_job_pb2.DistributedSpec,
    types.ResolvedSetting: tuning_job_pb2.TuningJob.ResolvedSetting,
    types.JobEstimate: tuning_job_pb2.TuningJob.Estimate,
    types.TuningJobExplanation: tuning_job_pb2.TuningJobExplanation,
    types.StartAlternative: tuning_job_pb2.TuningJobExplanation.Alternative,
    types.JobUsage: tuning_job_pb2.TuningJob.Usage,
    types.QueueReason: tuning_job_pb2.TuningJob.QueueReason,
    types.Progress: tuning_job_pb2.TuningJob.Progress,
    types.Evaluation: tuning_job_pb2.TuningJob.Evaluation,
    types.Checkpoint: tuning_job_pb2.Checkpoint,
    types.MetricPoint: tuning_job_pb2.MetricPoint,
    types.JobEvent: tuning_job_pb2.TuningJobEvent,
    types.LogChunk: tuning_job_pb2.ReadTuningJobLogsResponse,
    types.Adapter: adapter_pb2.Adapter,
    types.Alias: adapter_pb2.Alias,
    types.Trainer: trainer_pb2.Trainer,
    types.TrainerRoom: trainer_pb2.TrainerRoom,
    types.Export: export_pb2.Export,
    types.ExportFile: export_pb2.Export.File,
    types.ChatMessage: inference_pb2.ChatMessage,
    types.GenerationChunk: inference_pb2.GenerateResponse,
    types.TokenLogprob: inference_pb2.TokenLogprob,
    types.Alternative: inference_pb2.TokenLogprob.Alternative,
    types.Usage: inference_pb2.Usage,
}


@pytest.mark.parametrize("module", [trellis, trellis.client, types])
def test_all_names_what_there_is(module: Any) -> None:
    assert sorted(set(module.__all__)) == list(module.__all__)
    assert all(getattr(module, name).__doc__ for name in module.__all__)


def test_the_root_has_everything_and_knows_what_it_has_not() -> None:
    assert set(types.__all__) <= set(trellis.__all__) <= set(dir(trellis))
    with pytest.raises(AttributeError, match="nothing"):
        _ = trellis.nothing  # type: ignore[attr-defined]


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    blocking = trellis.Client("localhost:1")
    asynchronous = trellis.AsyncClient("localhost:1")
    for noun in NOUNS:
        one, other = type(getattr(blocking, noun)), type(getattr(asynchronous, noun))
        assert public(one) == public(other), noun
        for name in public(one):
            assert inspect.signature(getattr(one, name)) == inspect.signature(getattr(other, name)), name
            assert getattr(one, name).__doc__, name
            assert not inspect.iscoroutinefunction(getattr(one, name))
    extra = {"names", "caller"}
    assert public(trellis.Client) == public(trellis.AsyncClient) - extra
    assert inspect.signature(trellis.Client) == inspect.signature(trellis.AsyncClient)


@pytest.mark.parametrize(("cls", "message"), MESSAGES.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_a_dataclass_has_the_fields_of_its_message(cls: type, message: type[Message]) -> None:
    names = [field.name for field in dataclasses.fields(cls)]
    assert sorted(names) == sorted(message.DESCRIPTOR.fields_by_name)
    empty = from_proto(cls, message())
    assert empty == pickle.loads(pickle.dumps(empty))


@pytest.mark.parametrize(("cls", "message"), MESSAGES.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_an_enum_has_the_values_of_its_field(cls: type, message: type[Message]) -> None:
    for name, hint in typing.get_type_hints(cls).items():
        enums = [one for one in (hint, *typing.get_args(hint)) if inspect.isclass(one) and issubclass(one, StrEnum)]
        for enum in enums:
            descriptor = message.DESCRIPTOR.fields_by_name[name].enum_type
            assert descriptor is not None
            prefix = descriptor.values[0].name.removesuffix("UNSPECIFIED")
            assert {value.name.removeprefix(prefix) for value in descriptor.values} == set(enum.__members__), enum


def test_an_unknown_value_of_an_enum_is_unspecified() -> None:
    message = tenant_pb2.Tenant()
    job = tuning_job_pb2.TuningJob()
    job.ParseFromString(b"\x48\x63")  # state = 99
    assert from_proto(types.TuningJob, job).state is types.JobState.UNSPECIFIED
    assert from_proto(types.Tenant, message).create_time is None


def methods() -> list[Method[Any, Any]]:
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"trellis.client.{name}")
        found.update({m.name: m for m in vars(module).values() if isinstance(m, Method)})
    return list(found.values())


def test_every_method_of_the_public_api_is_called_and_with_its_own_messages() -> None:
    pool = descriptor_pool.Default()
    called = methods()
    for method in called:
        service, _, name = method.name.partition("/")
        descriptor = pool.FindServiceByName(f"trellis.v1.{service}").methods_by_name[name]
        assert descriptor.input_type is method.request.DESCRIPTOR, method.name
        assert descriptor.output_type is method.response.DESCRIPTOR, method.name
    services = {method.name.partition("/")[0] for method in called}
    offered = {
        f"{service}/{name}"
        for service in services
        for name in pool.FindServiceByName(f"trellis.v1.{service}").methods_by_name
    }
    assert {method.name for method in called} == offered
    assert len(services) == 11


def test_the_client_says_where_it_calls_and_not_with_what() -> None:
    client = trellis.Client("http://trellis.example:1234", "tr_secret", tenant="tenants/acme")
    assert repr(client) == "Client(endpoint='http://trellis.example:1234', tenant='acme')"
    assert _client.DEFAULT_TIMEOUT == 60.0
