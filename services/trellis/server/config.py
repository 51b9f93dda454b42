"""The server's settings, read once from the environment."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from trellis.engine_options import EngineOptions
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.snapshot import SchedulerOptions
from trellis.server.tls_options import TlsOptions

Options = TypeVar("Options", EngineOptions, TrainerOptions, SchedulerOptions, TlsOptions)
OPTIONS: Final = {"engine": EngineOptions, "trainer": TrainerOptions, "scheduler": SchedulerOptions, "tls": TlsOptions}
"""Settings that have a class of their own, by the field that holds them."""


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
    """Where jobs are submitted and engines are configured; with TRELLIS_KUBERAY_FILE empty for the clusters of that file."""
    migrate: str = "at_start"
    """`at_start`: the server brings the database to its version; `wait`: it waits until somebody else has."""
    grpc_address: Address = Address("127.0.0.1", 50051)
    """Where the API listens; `0.0.0.0:50051` for all interfaces."""
    http_address: Address = Address("127.0.0.1", 8000)
    """Where health and metrics are answered."""
    worker_endpoint: str = ""
    """`host:port` at which jobs reach this server, `https://host:port` for TLS that something else ends; worker_address or grpc_address when empty."""
    worker_address: Address | None = None
    """A second address for jobs alone, where they need no client's certificate; keys open nothing there."""
    kuberay_file: Path | None = None
    """YAML or JSON: the pods of Ray clusters on Kubernetes, which this server then makes and keeps through KubeRay."""
    ray_token_file: Path | None = None
    """Holds the token that Ray asks for, if it does; read anew for each call."""
    serve_host: str = "127.0.0.1"
    """Where Ray Serve's HTTP proxy is reached, through which engines are called; with TRELLIS_KUBERAY_FILE the service of its engines."""
    serve_port: int = 8001
    """The port of that proxy; with TRELLIS_KUBERAY_FILE 8000."""
    admin_key_file: Path | None = None
    """Where the first admin's key is written if there is no admin's key yet."""
    first_admin_key_file: Path | None = None
    """Holds what becomes the first admin's key instead: `trk_` and at least 32 random characters, made by somebody else."""
    base_models: tuple[tuple[str, str], ...] = ()
    """`NAME=SOURCE` or `NAME=SOURCE@REVISION`, separated by commas: registered at the start if missing, or when they have come into the cache; the first is the default."""
    base_cache: Path | None = None
    """A folder of fetched base models, from which hub ids and `s3://…` are read, and nothing is downloaded; on nodes too."""
    always_on: tuple[str, ...] = ()
    """Base models, separated by commas, whose engines run even when nothing is deployed."""
    capacity_cpus: float = 1.0
    """CPUs that jobs and shared trainers may have together."""
    capacity_gpus: float = 0.0
    """GPUs that jobs and shared trainers may have together."""
    job_cpus: float = 1.0
    """CPUs that each worker of a job reserves which runs by itself."""
    job_gpus: float = 0.0
    """GPUs that each worker of a job reserves which runs by itself."""
    engine: EngineOptions = EngineOptions()
    """The variables that begin with TRELLIS_ENGINE."""
    trainer: TrainerOptions = TrainerOptions()
    """The variables that begin with TRELLIS_TRAINER."""
    scheduler: SchedulerOptions = SchedulerOptions()
    """The variables that begin with TRELLIS_SCHEDULER."""
    oidc_file: Path | None = None
    """TOML or JSON: the identity providers whose tokens open the API, and what their claims give."""
    tls: TlsOptions = TlsOptions()
    """The variables that begin with TRELLIS_TLS."""
    prices_file: Path | None = None
    """Says what used units cost, as TOML or JSON; without it nothing has a price."""
    tenant_running_limit: int = 4
    """Jobs that a tenant may run at once."""
    lease_seconds: float = 30.0
    """Without a report for so long, a training process is taken for dead."""
    reports_per_second: float = 100.0
    """Reports of running jobs that are wanted together; the more jobs run beyond that, the less often each reports."""
    stop_grace_seconds: float = 60.0
    """So long a training process that is asked to pause or to give way may take to save a checkpoint and leave."""
    start_timeout_seconds: float = 300.0
    """So long a training process may take from its admission to its first call: nodes that are added and images count."""
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
    drain_seconds: float = 0.0
    """So long after SIGTERM calls are still taken, while health says already that none should come."""
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
            elif name in _REQUIRED and not (name in _ON_KUBERAY and "kuberay_file" in values):
                raise ConfigError(f"{variable} must be set: {_REQUIRED[name]}.")
        if "kuberay_file" in values:
            values = {**_ON_KUBERAY, **values}
        for name, kind in OPTIONS.items():
            values[name] = _options(kind, name, environment)
        config = cls(**values)  # type: ignore[arg-type]
        if config.tls.client_ca_file and config.worker_address is None:
            why = "jobs have no certificate of a client, which TRELLIS_TLS_CLIENT_CA_FILE asks for at the other address"
            raise ConfigError(f"TRELLIS_WORKER_ADDRESS must be set: {why}.")
        return config

    @property
    def is_alone(self) -> bool:
        """Whether there can be no other server: SQLite is for one."""
        return self.database_url.startswith("sqlite")

    @property
    def advertised_endpoint(self) -> str:
        """`host:port` at which jobs reach this server, after `https://` where TLS is spoken."""
        endpoint = self.worker_endpoint or str(self.worker_address or self.grpc_address)
        return f"https://{endpoint}" if self.tls.enabled and "://" not in endpoint else endpoint


def _options(kind: type[Options], group: str, environment: Mapping[str, str]) -> Options:
    """The settings that have a class of their own: TRELLIS_, the group and the field's name in capitals."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        variable = f"TRELLIS_{group.upper()}_{field.name.upper()}"
        if text := environment.get(variable, "").strip():
            values[field.name] = _reader_of(field)(variable, text)
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"Of the variables TRELLIS_{group.upper()}_…, {error}") from None


def _reader_of(field: Field[Any]) -> Callable[[str, str], object]:
    if "one_of" in field.metadata:
        return _one_of(field.metadata["one_of"])
    return {float: _number, int: _count, str: _text}[type(field.default)]


def _text(_variable: str, text: str) -> str:
    return text


def _endpoint(variable: str, text: str) -> str:
    Address.parse(variable, text.removeprefix("https://"))
    if "," in text and not text.startswith(("ipv4:", "ipv6:")):
        several = "several without TLS as ipv4:10.0.0.1:50051,10.0.0.2:50051"
        raise ConfigError(f"{variable} must be one host:port, or {several}, not {text!r}.")
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

_ON_KUBERAY: Final = {"ray_dashboard_url": "", "serve_host": "", "serve_port": 8000}
"""What is known of clusters on Kubernetes; an empty address is that of their service."""

_READERS = {
    "database_url": _text,
    "store_url": _text,
    "secret_file": _path,
    "kuberay_file": _path,  # before what it makes needless
    "ray_dashboard_url": _text,
    "migrate": _one_of(("at_start", "wait")),
    "grpc_address": Address.parse,
    "http_address": Address.parse,
    "worker_endpoint": _endpoint,
    "worker_address": Address.parse,
    "oidc_file": _path,
    "ray_token_file": _path,
    "serve_host": _text,
    "serve_port": _count,
    "admin_key_file": _path,
    "first_admin_key_file": _path,
    "base_models": _pairs,
    "base_cache": _path,
    "always_on": _names,
    "capacity_cpus": _number,
    "capacity_gpus": _number,
    "job_cpus": _number,
    "job_gpus": _number,
    "prices_file": _path,
    "tenant_running_limit": _count,
    "lease_seconds": _positive,
    "reports_per_second": _positive,
    "stop_grace_seconds": _positive,
    "start_timeout_seconds": _positive,
    "step_timeout_seconds": _positive,
    "max_upload_bytes": _count,
    "log_format": _one_of(("json", "console")),
    "log_level": _log_level,
    "job_python": _text,
    "drain_seconds": _number,
    "shutdown_seconds": _number,
}
