"""The whole fake, on a real socket."""

from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc

from tests.fake_server.accounts import ApiKeys, BaseModels, Tenants
from tests.fake_server.adapters import Adapters, Inference
from tests.fake_server.audit import AuditTrail
from tests.fake_server.datasets import Datasets
from tests.fake_server.exports import Exports
from tests.fake_server.faults import Faults
from tests.fake_server.jobs import Jobs
from tests.fake_server.trainers import Trainers
from tests.fake_server.usage import Usage
from trellis.v1.adapter_pb2_grpc import add_AdapterServiceServicer_to_server
from trellis.v1.api_key_pb2_grpc import add_ApiKeyServiceServicer_to_server
from trellis.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from trellis.v1.base_model_pb2_grpc import add_BaseModelServiceServicer_to_server
from trellis.v1.dataset_pb2_grpc import add_DatasetServiceServicer_to_server
from trellis.v1.export_pb2_grpc import add_ExportServiceServicer_to_server
from trellis.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from trellis.v1.tenant_pb2_grpc import add_TenantServiceServicer_to_server
from trellis.v1.trainer_pb2_grpc import add_TrainerAdminServiceServicer_to_server
from trellis.v1.tuning_job_pb2_grpc import add_TuningJobServiceServicer_to_server
from trellis.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server

KEY = "tr_test_key"


class FakeServer:
    """All services in memory; what it holds outlives a restart, as a database would."""

    def __init__(self) -> None:
        self.faults = Faults(KEY)
        self.tenants, self.api_keys, self.base_models = Tenants(), ApiKeys(), BaseModels()
        self.datasets, self.jobs = Datasets(), Jobs()
        self.adapters, self.inference = Adapters(), Inference()
        self.exports, self.trainers = Exports(), Trainers()
        self.audit = AuditTrail()
        self.usage = Usage(self.tenants)
        self.port = 0
        self.credentials: grpc.ServerCredentials | None = None
        """With which it speaks TLS; plain text without."""
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._server is not None

    def start(self) -> None:
        """Serve, on the same port as before."""
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[self.faults], options=(("grpc.so_reuseport", 0),))
        add_TenantServiceServicer_to_server(self.tenants, server)
        add_ApiKeyServiceServicer_to_server(self.api_keys, server)
        add_BaseModelServiceServicer_to_server(self.base_models, server)
        add_DatasetServiceServicer_to_server(self.datasets, server)
        add_TuningJobServiceServicer_to_server(self.jobs, server)
        add_AdapterServiceServicer_to_server(self.adapters, server)
        add_ExportServiceServicer_to_server(self.exports, server)
        add_TrainerAdminServiceServicer_to_server(self.trainers, server)
        add_InferenceServiceServicer_to_server(self.inference, server)
        add_AuditServiceServicer_to_server(self.audit, server)
        add_UsageServiceServicer_to_server(self.usage, server)
        address = f"127.0.0.1:{self.port}"
        tls = self.credentials
        self.port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Cut all connections."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
