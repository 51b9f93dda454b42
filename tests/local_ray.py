"""A private Ray for tests, ended with everything that it started."""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trellis.local.processes import MARKER, Child, sweep
from trellis.local.ray_head import RayPorts, ray_command, ray_environment
from trellis.local.stack import answers

_READY_SECONDS = 120.0
TOKEN = "t" * 64


@dataclass(frozen=True, slots=True)
class LocalRay:
    """A Ray that answers."""

    ports: RayPorts
    token_file: Path
    marker: str
    """In the environment of all its processes."""

    @property
    def url(self) -> str:
        return self.ports.dashboard_url


@contextmanager
def local_ray(cpus: int) -> Iterator[LocalRay]:
    """Ray on ports of its own, on the loopback interface."""
    folder = Path(tempfile.mkdtemp(prefix="tr-"))  # short: a socket's path has room for 107 bytes
    token_file, marker, ports = folder / "token", uuid.uuid4().hex[:16], RayPorts.choose()
    token_file.write_text(TOKEN)
    environment = ray_environment({**os.environ, MARKER: marker}, token_file)
    child = Child("ray", ray_command(ports, folder / "ray", cpus), environment, folder / "log")
    child.start()
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not answers(f"{ports.dashboard_url}/api/version", TOKEN):
            assert child.exit_code() is None, child.last_lines(50)
            assert time.monotonic() < deadline, child.last_lines(50)
            time.sleep(0.1)
        yield LocalRay(ports, token_file, marker)
    finally:
        child.stop(2.0)  # with Serve up it drains for long; nothing in it is worth waiting for
        sweep(marker)
        shutil.rmtree(folder, ignore_errors=True)
