"""A server as a process of its own, without a Ray that answers."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import trellis
from trellis.local.stack import answers

BASE = Path(trellis.__file__).parent / "base_models" / "trellis-tiny"
SECONDS = 60.0


@dataclass
class Server:
    """One server; several over one folder and one database are one installation."""

    folder: Path
    grpc_port: int
    http_port: int
    database_url: str = ""
    """SQLite in the folder when empty."""
    name: str = "server"
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def key(self) -> str:
        return (self.folder / "admin.key").read_text().strip()

    def start(self, *, broken_by: str = "", **changes: str) -> subprocess.Popen[bytes]:
        """Start it; `broken_by` is Python that is run before, to break it on purpose."""
        environment = {
            **os.environ,
            "TRELLIS_DATABASE_URL": self.database_url or f"sqlite+aiosqlite:///{self.folder / 'trellis.db'}",
            "TRELLIS_STORE_URL": str(self.folder / "objects"),
            "TRELLIS_SECRET_FILE": str(self.folder / "server.secret"),
            "TRELLIS_ADMIN_KEY_FILE": str(self.folder / "admin.key"),
            "TRELLIS_RAY_DASHBOARD_URL": "http://127.0.0.1:9",
            "TRELLIS_GRPC_ADDRESS": f"127.0.0.1:{self.grpc_port}",
            "TRELLIS_HTTP_ADDRESS": f"127.0.0.1:{self.http_port}",
            "TRELLIS_BASE_MODELS": f"tiny={BASE}",
            **changes,
        }
        entry = "from trellis.server.main import main\nraise SystemExit(main())"
        program = ["-c", f"{broken_by}\n{entry}"] if broken_by else ["-m", "trellis.server"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *program], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.started.append(process)
        return process

    def until_ready(self) -> None:
        pause = threading.Event()
        for _ in range(int(SECONDS / 0.1)):
            if answers(f"http://127.0.0.1:{self.http_port}/readyz"):
                return
            pause.wait(0.1)
        pytest.fail(f"The server did not get ready:\n{self.log.read_text()}")

    def logged(self, request_id: str) -> list[str]:
        """The statuses of the log's lines on this call, which are written after it was answered."""
        pause = threading.Event()
        for _ in range(int(SECONDS / 0.1)):
            lines = [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if found := [line["status"] for line in lines if line.get("request_id") == request_id]:
                return found
            pause.wait(0.1)
        pytest.fail(f"The log has no line on {request_id}:\n{self.log.read_text()}")

    def client(self, key: str = "", **more: str) -> trellis.Client:
        return trellis.Client(f"localhost:{self.grpc_port}", api_key=key or self.key, **more)

    def end(self) -> None:
        """Kill all that was started."""
        for process in self.started:
            process.kill()
            process.wait()
