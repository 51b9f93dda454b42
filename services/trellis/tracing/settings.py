"""What OpenTelemetry's standard variables say."""

from collections.abc import Mapping
from typing import Final

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PASSED_ON: Final = (
    *_ENDPOINTS,
    *_PROTOCOLS,
    *("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"),
    *("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"),
    *("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"),
    *("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"),
    *("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
)
"""Not among them: headers, for they hold the collector's key and a run's environment is no place for keys; certificates,
which are files of the server's machine; names and attributes of the service, which are the server's own."""


class TracingError(ValueError):
    """Traces can't be exported as the variables say."""


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether a collector is named, and nothing says that it shall not be used. Raises TracingError."""
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    is_elsewhere = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() not in {"", "otlp"}
    if is_off or is_elsewhere or not any(environment.get(name, "").strip() for name in _ENDPOINTS):
        return False
    for name in _PROTOCOLS:
        if (protocol := environment.get(name, "").strip()) not in {"", "grpc"}:
            message = f"{name} is {protocol!r}, and traces are exported over gRPC alone"
            raise TracingError(f"{message}. Set it to grpc, and the endpoint to the collector's port for that, 4317.")
    return True


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that jobs and engines get too, so that their spans go where the server's go."""
    return {name: environment[name] for name in _PASSED_ON if environment.get(name)}
