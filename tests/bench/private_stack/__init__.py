"""A whole Trellis of a benchmark's own: Ray, server and engine in a folder that vanishes with them."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trellis
from trellis.local.layout import DataDir
from trellis.local.ports import free_ports
from trellis.local.stack import Stack, StackSettings
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.secret import derived, read_or_make_secret


@dataclass(frozen=True, slots=True)
class PrivateStack:
    """A Trellis that serves."""

    endpoint: str
    admin_key: str
    data: DataDir

    def member(self, tenant: str) -> trellis.Client:
        """A client of a new tenant, with a member's key."""
        return trellis.Client(self.endpoint, api_key=self.enrol(tenant), tenant=tenant)

    def enrol(self, tenant: str) -> str:
        """Make a tenant; the secret of a member's key."""
        with trellis.Client(self.endpoint, api_key=self.admin_key) as admin:
            admin.tenants.create(tenant)
            return admin.api_keys.create(f"tenants/{tenant}", display_name="bench").secret

    def engines(self) -> ServeCluster:
        """The way to its engines past its server."""
        ports = json.loads(self.data.state.read_text())["ray"]
        secret = derived(read_or_make_secret(self.data.server_secret), "engines")
        settings = EngineSettings(str(self.data.objects), secret, http_port=ports["serve_http"])
        return ServeCluster(f"http://127.0.0.1:{ports['dashboard']}", settings)


@contextmanager
def private_stack(say: Callable[[str], None], settings: Mapping[str, str] = {}) -> Iterator[PrivateStack]:
    """Start it on free ports, with these TRELLIS_ variables, and end all of its processes. Raises StackError."""
    with tempfile.TemporaryDirectory(prefix="trellis-bench-") as folder, _environment(settings):
        data = DataDir(Path(folder))
        grpc_port, http_port = free_ports(2)
        stack = Stack(StackSettings(data, grpc_port, http_port, len(os.sched_getaffinity(0))), say)
        with stack.serving():
            yield PrivateStack(f"localhost:{grpc_port}", data.admin_key.read_text().strip(), data)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """For what is started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
