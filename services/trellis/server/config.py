"""The server's settings, read once from the environment."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from trellis.engine_options import KINDS, PRECISIONS, EngineOptions


class ConfigError(ValueError):
    """A setting is missing or wrong; `str()` names the variable and says what it must be."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, variable: str, text: str) -> Self:
        """Read `host:port`; raise ConfigError."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 <= int(port) < 65536:
            raise ConfigError(f"{variable} must be host:port, not {text!r}.")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """All settings of `python -m trellis.server`; each field's variable is its name in capitals after `TRELLIS_`."""

    database_url: str
    """SQLAlchemy's URL: `sqlite+aiosqlite:///path` or `postgresql+psycopg://…`."""
    store_url: str
    """The object store: a folder or a URL that fsspec opens, such as `s3://bucket/prefix`."""
    secret_file: Path
    """Holds the secret that tokens are derived from; made, readable by its owner alone, if it is missing."""
    ray_dashboard_url: str
    """Where jobs are submitted and engines are configured."""
    grpc_address: Address = Address("127.0.0.1", 50051)
    """Where the API listens; `0.0.0.0:50051` for all interfaces."""
    http_address: Address = Address("127.0.0.1", 8000)
    """Where health and metrics are answered."""
    worker_endpoint: str = ""
    """`host:port` at which jobs reach this server; grpc_address when empty."""
    ray_token_file: Path | None = None
    """Holds the token that Ray asks for, if it does."""
    serve_host: str = "127.0.0.1"
    """Where Ray Serve's HTTP proxy is reached, through which engines are called."""
    serve_port: int = 8001
    """The port of that proxy."""
    admin_key_file: Path | None = None
    """Where the first admin's key is written if there is no admin's key yet."""
    base_models: tuple[tuple[str, str], ...] = ()
    """`NAME=SOURCE`, separated by commas: registered at the start if missing; the first is the default."""
    always_on: tuple[str, ...] = ()
    """Base models, separated by commas, whose engines run even when nothing is deployed."""
    capacity_cpus: float = 1.0
    """CPUs that jobs may have together."""
    capacity_gpus: float = 0.0
    """GPUs that jobs may have together."""
    job_cpus: float = 1.0
    """CPUs that a job reserves."""
    job_gpus: float = 0.0
    """GPUs that a job reserves."""
    engine_kind: str = "trellis"
    """`trellis`, or `vllm` for architectures that the first does not run; the cluster must have it installed."""
    engine_cpus: float = 0.1
    """CPUs that a replica of an engine reserves."""
    engine_threads: int = 1
    """Threads with which a replica computes."""
    engine_gpus: float = 0.0
    """GPUs that a replica of an engine reserves."""
    engine_min_replicas: int = 1
    """Replicas of each engine."""
    engine_max_replicas: int = 1
    """More than the least lets Ray Serve add and remove replicas by load."""
    engine_target_requests: int = 0
    """Calls a replica has when their number is right, for Ray Serve to go by; 0 for as many as it runs at once."""
    engine_precision: str = "auto"
    """Of bases and adapters: `fp32`, `bf16`, or `auto` for fp32 on a CPU and the base's own on a GPU."""
    engine_kv_bytes: int = 0
    """Bytes of a replica's KV cache; 0 for 64 MiB on a CPU and most of what is free on a GPU."""
    engine_bank_rows: int = 256
    """Rank rows, of all adapters together, that a replica has beside its base."""
    engine_max_adapters: int = 64
    """Adapters that a replica has beside its base at once."""
    engine_host_bytes: int = 1 << 30
    """Bytes of adapters that a replica keeps in the host's memory."""
    engine_max_running: int = 32
    """Answers that a replica makes at once."""
    engine_max_waiting: int = 128
    """Answers that may wait in a replica; further ones are refused."""
    engine_tenant_room: int = 8
    """A tenant may have so many times as many answers in a replica as there is room left for."""
    engine_step_tokens: int = 512
    """Tokens that a replica computes in one step, those of long prompts in pieces."""
    engine_drain_seconds: float = 60.0
    """So long a replica that is replaced may take to finish its answers."""
    engine_surge_percent: int = 25
    """Replicas beyond the wanted ones, rounded up, while new settings replace old ones; 0 stops the old ones first."""
    tenant_running_limit: int = 4
    """Jobs that a tenant may run at once."""
    lease_seconds: float = 30.0
    """Without a report for so long, a training process is taken for dead."""
    stop_grace_seconds: float = 60.0
    """So long a training process that is asked to pause or to give way may take to save a checkpoint and leave."""
    step_timeout_seconds: float = 1800.0
    """A training process that reports but makes no step for so long is taken to hang."""
    max_upload_bytes: int = 10 * 1024**3
    """The largest file of a dataset."""
    log_format: str = "json"
    """`json`, or `console` for people."""
    log_level: str = "INFO"
    """`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`."""
    job_python: str = sys.executable
    """The interpreter that runs jobs on the cluster."""
    shutdown_seconds: float = 10.0
    """So long calls may take to finish after SIGTERM."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read every `TRELLIS_…` variable that is set; raise ConfigError for what is missing or wrong."""
        values: dict[str, object] = {}
        for name, read in _READERS.items():
            variable = f"TRELLIS_{name.upper()}"
            text = environment.get(variable, "").strip()
            if text:
                values[name] = read(variable, text)
            elif name in _REQUIRED:
                raise ConfigError(f"{variable} must be set: {_REQUIRED[name]}.")
        config = cls(**values)  # type: ignore[arg-type]
        _check_engine(config)
        return config

    @property
    def engine_options(self) -> EngineOptions:
        """The settings that begin with `engine_`. Raises ValueError for those that don't go together."""
        return EngineOptions(**{field.name: getattr(self, f"engine_{field.name}") for field in fields(EngineOptions)})

    @property
    def advertised_endpoint(self) -> str:
        """`host:port` at which jobs reach this server."""
        return self.worker_endpoint or str(self.grpc_address)


def _check_engine(config: ServerConfig) -> None:
    try:
        config.engine_options  # noqa: B018  it is what raises
    except ValueError as error:
        raise ConfigError(f"Of the variables TRELLIS_ENGINE_…, {error}") from None


def _text(_variable: str, text: str) -> str:
    return text


def _path(_variable: str, text: str) -> Path:
    return Path(text).expanduser()


def _number(variable: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{variable} must be a number, not {text!r}.") from None
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{variable} must not be negative or infinite, as {text!r} is.")
    return number


def _positive(variable: str, text: str) -> float:
    number = _number(variable, text)
    if number == 0:
        raise ConfigError(f"{variable} must be more than 0.")
    return number


def _count(variable: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{variable} must be a whole number, not {text!r}.")
    return int(text)


def _names(_variable: str, text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(variable: str, text: str) -> tuple[tuple[str, str], ...]:
    pairs = tuple(tuple(part.split("=", 1)) for part in _names(variable, text))
    if any(len(pair) != 2 for pair in pairs):
        raise ConfigError(f"{variable} must be NAME=SOURCE, separated by commas, not {text!r}.")
    return pairs  # type: ignore[return-value]


def _one_of(known: Sequence[str]) -> Callable[[str, str], str]:
    def read(variable: str, text: str) -> str:
        if text not in known:
            raise ConfigError(f"{variable} must be {' or '.join(known)}, not {text!r}.")
        return text

    return read


def _log_level(variable: str, text: str) -> str:
    if text.upper() not in _LOG_LEVELS:
        raise ConfigError(f"{variable} must be one of {', '.join(_LOG_LEVELS)}, not {text!r}.")
    return text.upper()


_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_REQUIRED = {
    "database_url": "the database, as sqlite+aiosqlite:///path or postgresql+psycopg://…",
    "store_url": "the object store, as a folder or s3://bucket/prefix",
    "secret_file": "a file for the secret that tokens are derived from; it is made if it is missing",
    "ray_dashboard_url": "where Ray's dashboard is, as http://host:8265",
}

_READERS = {
    "database_url": _text,
    "store_url": _text,
    "secret_file": _path,
    "ray_dashboard_url": _text,
    "grpc_address": Address.parse,
    "http_address": Address.parse,
    "worker_endpoint": _text,
    "ray_token_file": _path,
    "serve_host": _text,
    "serve_port": _count,
    "admin_key_file": _path,
    "base_models": _pairs,
    "always_on": _names,
    "capacity_cpus": _number,
    "capacity_gpus": _number,
    "job_cpus": _number,
    "job_gpus": _number,
    "engine_kind": _one_of(KINDS),
    "engine_cpus": _number,
    "engine_threads": _count,
    "engine_gpus": _number,
    "engine_min_replicas": _count,
    "engine_max_replicas": _count,
    "engine_target_requests": _count,
    "engine_precision": _one_of(PRECISIONS),
    "engine_kv_bytes": _count,
    "engine_bank_rows": _count,
    "engine_max_adapters": _count,
    "engine_host_bytes": _count,
    "engine_max_running": _count,
    "engine_max_waiting": _count,
    "engine_tenant_room": _count,
    "engine_step_tokens": _count,
    "engine_drain_seconds": _number,
    "engine_surge_percent": _count,
    "tenant_running_limit": _count,
    "lease_seconds": _positive,
    "stop_grace_seconds": _positive,
    "step_timeout_seconds": _positive,
    "max_upload_bytes": _count,
    "log_format": _one_of(("json", "console")),
    "log_level": _log_level,
    "job_python": _text,
    "shutdown_seconds": _number,
}
