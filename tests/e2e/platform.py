"""The whole platform in a folder of its own, used as its users do: by commands, and by the SDK."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.patience import until
from tests.e2e.readme import cli_lines

import trellis
from trellis.local.layout import DataDir
from trellis.local.ports import free_ports
from trellis.local.processes import marked_pids, sweep
from trellis.local.stack import answers, read_state

_COMMAND_SECONDS = 480.0
_VENV_BIN = Path(sys.executable).parent


@dataclass
class Platform:
    """What `trellis up` runs over `folder`/data, on ports of its own."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(2))

    @property
    def data(self) -> DataDir:
        return DataDir(self.folder / "data")

    @property
    def endpoint(self) -> str:
        return f"localhost:{self.ports[0]}"

    @property
    def admin_key(self) -> str:
        return self.data.admin_key.read_text().strip()

    def up_line(self) -> str:
        """The README's line, on these ports and for two jobs at once."""
        line = next(line for line in cli_lines() if line.startswith("trellis up"))
        return f"{line} --grpc-port {self.ports[0]} --http-port {self.ports[1]} --cpus 2"

    def up(self) -> subprocess.CompletedProcess[str]:
        return self.shell(self.up_line())

    def end(self) -> None:
        """End it as the README says, and make sure that nothing is left, whatever came before."""
        try:
            self.shell(cli_lines()[-1], check=False)
        finally:
            left = marked_pids(self.data.marker)
            self.sweep()
        assert not left, f"`trellis down` left {len(left)} processes behind"

    def sweep(self) -> None:
        """End whatever still runs, though nothing should."""
        sweep(self.data.marker, grace=0.5)
        shutil.rmtree(self.data.ray_dir, ignore_errors=True)

    def shell(self, script: str, *, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run lines as a user's shell does, in `folder`."""
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**self.environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                said, erred = process.communicate(timeout=_COMMAND_SECONDS)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert not check or process.returncode == 0, f"{script}\n{said}{erred}{self.last_words()}"
        return subprocess.CompletedProcess(script, process.returncode, said, erred)

    def cli(self, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one `trellis` command; `TRELLIS_API_KEY` and the like come as variables."""
        return self.shell(shlex.join(["trellis", *arguments]), check=check, **variables)

    def environment(self) -> dict[str, str]:
        """A user's environment: the program on the path, and nobody's profile."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("TRELLIS_")}
        return {
            **mine,
            "PATH": f"{_VENV_BIN}:{mine['PATH']}",
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "TRELLIS_ENDPOINT": self.endpoint,
        }

    def status(self) -> dict[str, Any]:
        """What `trellis status` says."""
        found: dict[str, Any] = json.loads(
            self.cli("status", "--data-dir", "data", "--format", "json", check=False).stdout
        )
        return found

    def client(self, key: str, tenant: str | None = None) -> trellis.Client:
        return trellis.Client(self.endpoint, key, tenant=tenant)

    def trainer_pids(self) -> list[int]:
        """The processes of shared trainers."""
        return [pid for pid in marked_pids(self.data.marker) if "trellis_jobs.shared.main" in _line(pid)]

    def kill_server(self, when: Callable[[], object]) -> None:
        """SIGKILL, as soon as it is time; returns when another one serves."""
        server = until(self._serving_pid, "the server serves")
        until(when, "it is time to kill the server")
        kill(server)
        until(lambda: self._serving_pid() not in {None, server}, "the server is started again")

    def _serving_pid(self) -> int | None:
        """The server's process, while it serves; by no command, for each of many looks would take its share of the machine."""
        state = read_state(self.data) or {}
        pid: int | None = state.get("server_pid")
        return pid if pid and answers(f"http://127.0.0.1:{self.ports[1]}/readyz") else None

    def last_words(self) -> str:
        """The ends of the logs, for whoever reads of a failure."""
        logs = sorted(self.data.logs.glob("*.log"))
        return "".join(f"\n--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


def kill(*pids: int) -> None:
    """SIGKILL; one that has gone is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""
