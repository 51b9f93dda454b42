"""Health by gRPC's own protocol: the server as a whole, and each of its services."""

from collections.abc import Iterable

from grpc_health.v1 import health, health_pb2  # type: ignore[import-untyped]


class ServerHealth(health.aio.HealthServicer):  # type: ignore[misc]
    """Says SERVING from the start; `enter_graceful_shutdown` says NOT_SERVING of all for good."""

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__()
        serving = health_pb2.HealthCheckResponse.SERVING
        self._server_status.update(dict.fromkeys(services, serving))
