"""The API's services, one file each: convert, call the use case, convert back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from trellis.server.app.context import Context
from trellis.server.rpc.servicers.adapter import AdapterServicer
from trellis.server.rpc.servicers.api_key import ApiKeyServicer
from trellis.server.rpc.servicers.audit import AuditServicer
from trellis.server.rpc.servicers.base_model import BaseModelServicer
from trellis.server.rpc.servicers.dataset import DatasetServicer
from trellis.server.rpc.servicers.export import ExportServicer
from trellis.server.rpc.servicers.inference import InferenceServicer
from trellis.server.rpc.servicers.tenant import TenantServicer
from trellis.server.rpc.servicers.trainer import TrainerServicer
from trellis.server.rpc.servicers.trainer_admin import TrainerAdminServicer
from trellis.server.rpc.servicers.tuning_job import TuningJobServicer
from trellis.server.rpc.servicers.usage import UsageServicer
from trellis.server.rpc.servicers.worker import WorkerServicer
from trellis.v1 import (
    adapter_pb2,
    adapter_pb2_grpc,
    api_key_pb2,
    api_key_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    base_model_pb2,
    base_model_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    export_pb2,
    export_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    trainer_pb2,
    trainer_pb2_grpc,
    tuning_job_pb2,
    tuning_job_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)


@dataclass(frozen=True, slots=True)
class Service:
    """A service, what answers it, and how it is added to a server."""

    descriptor: ServiceDescriptor
    build: Callable[[Context], Any]
    add: Callable[[Any, Any], None]


def _service(module: Any, name: str, build: Callable[[Context], Any], grpc_module: Any) -> Service:
    add = getattr(grpc_module, f"add_{name}Servicer_to_server")
    return Service(module.DESCRIPTOR.services_by_name[name], build, add)


SERVICES = (
    _service(tenant_pb2, "TenantService", TenantServicer, tenant_pb2_grpc),
    _service(api_key_pb2, "ApiKeyService", ApiKeyServicer, api_key_pb2_grpc),
    _service(base_model_pb2, "BaseModelService", BaseModelServicer, base_model_pb2_grpc),
    _service(dataset_pb2, "DatasetService", DatasetServicer, dataset_pb2_grpc),
    _service(tuning_job_pb2, "TuningJobService", TuningJobServicer, tuning_job_pb2_grpc),
    _service(adapter_pb2, "AdapterService", AdapterServicer, adapter_pb2_grpc),
    _service(export_pb2, "ExportService", ExportServicer, export_pb2_grpc),
    _service(audit_pb2, "AuditService", AuditServicer, audit_pb2_grpc),
    _service(inference_pb2, "InferenceService", InferenceServicer, inference_pb2_grpc),
    _service(usage_pb2, "UsageService", UsageServicer, usage_pb2_grpc),
    _service(worker_pb2, "WorkerService", WorkerServicer, worker_pb2_grpc),
    _service(trainer_pb2, "TrainerService", TrainerServicer, trainer_pb2_grpc),
    _service(trainer_pb2, "TrainerAdminService", TrainerAdminServicer, trainer_pb2_grpc),
)
"""All that the control plane answers; engines answer EngineService themselves."""
