"""A private Ray on this machine."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trellis.local.ports import free_ports

_OBJECT_STORE_BYTES = 128 * 1024 * 1024

QUIET_THREADS: Mapping[str, str] = {
    # Threads that spin while they wait slow every other torch process on the machine down severalfold.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

SERVE_PROXY: Mapping[str, str] = {
    # Each piece of an answer costs less of the CPU that engines compute with (docs/adr/0025).
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
"""How Ray Serve's proxies reach replicas; deploy/ray/Dockerfile says the same."""


@dataclass(frozen=True, slots=True)
class RayPorts:
    """Ports of one Ray; none of them is a default, so that several Rays share a machine."""

    gcs: int
    dashboard: int
    agent_http: int
    agent_grpc: int
    runtime_env_agent: int
    metrics: int
    client: int
    serve_http: int

    @classmethod
    def choose(cls) -> "RayPorts":
        """Free ones."""
        return cls(*free_ports(8))

    @property
    def dashboard_url(self) -> str:
        """Where jobs are submitted and applications are configured."""
        return f"http://127.0.0.1:{self.dashboard}"


def ray_command(ports: RayPorts, folder: Path, cpus: int) -> list[str]:
    """The command that runs Ray in the foreground, on the loopback interface only."""
    options = {
        "node-ip-address": "127.0.0.1",
        "port": ports.gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports.dashboard,
        "dashboard-agent-listen-port": ports.agent_http,
        "dashboard-agent-grpc-port": ports.agent_grpc,
        "runtime-env-agent-port": ports.runtime_env_agent,
        "metrics-export-port": ports.metrics,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "ray-client-server-port": ports.client,
        "num-cpus": cpus,
        "object-store-memory": _OBJECT_STORE_BYTES,
        "temp-dir": folder,
        "include-dashboard": "true",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", *flags]


def ray_environment(environment: Mapping[str, str], token_file: Path) -> dict[str, str]:
    """The environment for Ray and all that it starts: its own token, quiet threads, no reports home, few processes."""
    return {
        **environment,
        **QUIET_THREADS,
        **SERVE_PROXY,
        # Whoever reaches Ray's ports can run code as us, so that every call must carry the token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_enable_metrics_collection": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
