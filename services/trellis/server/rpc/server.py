"""The gRPC server of the control plane."""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from trellis.server.app.context import Context
from trellis.server.domain.caller import Role
from trellis.server.rpc.access import read_access
from trellis.server.rpc.health import ServerHealth
from trellis.server.rpc.interceptor import CallInterceptor
from trellis.server.rpc.servicers import SERVICES, Service

MAX_MESSAGE_BYTES = 8 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_metadata_size", 32 << 10),
    # Watches are silent for long: both sides ask whether the other still lives.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Another server on the same port is a mistake that must be seen.
    ("grpc.so_reuseport", 0),
)


_PROCESSES = frozenset({Role.ATTEMPT, Role.TRAINER})
JOBS_SERVICES = tuple(
    service
    for service in SERVICES
    if {access.role for access in read_access([service.descriptor]).values()} <= _PROCESSES
)
"""What attempts and trainers call, and nobody else."""


def build_grpc_server(
    context: Context, health_servicer: ServerHealth | None = None, services: Sequence[Service] = SERVICES
) -> grpc.aio.Server:
    """The server with its services, without a port yet; raises MissingAccessError for a method that is not annotated.

    Health and reflection need no key: they say nothing of any tenant. Whoever wants to say NOT_SERVING at the end passes
    the health servicer in.
    """
    interceptor = CallInterceptor(context, read_access(service.descriptor for service in services))
    server = grpc.aio.server(interceptors=[interceptor], options=_OPTIONS)
    for service in services:
        service.add(service.build(context), server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer or make_health(), server)
    names = [service.descriptor.full_name for service in services]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return server


def make_health() -> ServerHealth:
    """Health of all services."""
    return ServerHealth(service.descriptor.full_name for service in SERVICES)
