"""The server as a process of its own, over SQLite and without a Ray that answers."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import trellis
from trellis.local.ports import free_ports
from trellis.local.stack import answers

BASE = Path(trellis.__file__).parent / "base_models" / "trellis-tiny"
LINE = {"messages": [{"role": "user", "content": "ping"}, {"role": "assistant", "content": "pong"}]}
SECONDS = 60.0


@dataclass
class Server:
    folder: Path
    grpc_port: int
    http_port: int
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def key(self) -> str:
        return (self.folder / "admin.key").read_text().strip()

    def start(self, **changes: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "TRELLIS_DATABASE_URL": f"sqlite+aiosqlite:///{self.folder / 'trellis.db'}",
            "TRELLIS_STORE_URL": str(self.folder / "objects"),
            "TRELLIS_SECRET_FILE": str(self.folder / "server.secret"),
            "TRELLIS_ADMIN_KEY_FILE": str(self.folder / "admin.key"),
            "TRELLIS_RAY_DASHBOARD_URL": "http://127.0.0.1:9",
            "TRELLIS_GRPC_ADDRESS": f"127.0.0.1:{self.grpc_port}",
            "TRELLIS_HTTP_ADDRESS": f"127.0.0.1:{self.http_port}",
            "TRELLIS_BASE_MODELS": f"tiny={BASE}",
            **changes,
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trellis.server"], env=environment, stdout=log, stderr=subprocess.STDOUT
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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, *free_ports(2))
    yield found
    for process in found.started:
        process.kill()
        process.wait()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(LINE) + "\n" for _ in range(20)))
    return path


def test_what_was_acknowledged_outlives_the_process(server: Server, data: Path) -> None:
    process = server.start()
    server.until_ready()
    first_key = server.key
    assert (server.folder / "admin.key").stat().st_mode & 0o777 == 0o600
    with server.client() as admin:
        admin.tenants.create("acme")
        secret = admin.api_keys.create("tenants/acme").secret
    with server.client(secret, tenant="acme") as client:
        version = client.datasets.upload(data, dataset="pings")
        job = client.jobs.create("pings", request_id="once")
    process.kill()
    process.wait()

    server.start()
    server.until_ready()
    assert server.key == first_key
    with server.client(secret, tenant="acme") as client:
        assert client.datasets.get_version(version.name) == version
        assert client.jobs.create("pings", request_id="once").name == job.name
        assert [found.name for found in client.jobs.list()] == [job.name]


def test_sigterm_ends_it_in_order(server: Server, data: Path) -> None:
    process = server.start()
    server.until_ready()
    with server.client() as admin:
        admin.tenants.create("acme")
    ended: list[trellis.TrellisError] = []
    with server.client(tenant="acme", retry=trellis.Retry(attempts=1)) as client:
        client.datasets.upload(data, dataset="pings")
        job = client.jobs.create("pings")
        logs = client.jobs.logs(job.name, follow=True)

        def follow() -> None:
            try:
                for _ in logs:
                    pass
            except trellis.TrellisError as error:
                ended.append(error)

        reader = threading.Thread(target=follow)
        reader.start()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        server.start()
        server.until_ready()
        with server.client(tenant="acme") as another:
            another.jobs.cancel(job.name)
        reader.join(SECONDS)
    assert not reader.is_alive()
    assert all(error.STATUS == "UNAVAILABLE" for error in ended)
    events = [json.loads(line)["event"] for line in server.log.read_text().splitlines()]
    assert events.index("stopping") < events.index("stopped")


def test_health_metrics_and_logs(server: Server) -> None:
    server.start()
    server.until_ready()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "trellis.v1.TuningJobService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with server.client() as admin, pytest.raises(trellis.NotFound) as caught:
        admin.tenants.get("nobody")
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics") as response:
        metrics = response.read().decode()
    assert 'trellis_jobs{state="QUEUED"} 0.0' in metrics
    assert "GetTenant" in metrics
    assert server.logged(caught.value.request_id) == ["NOT_FOUND"]
    assert server.key not in server.log.read_text()


def test_a_wrong_setting_ends_it_with_a_sentence(server: Server) -> None:
    assert server.start(TRELLIS_GRPC_ADDRESS="nowhere").wait(SECONDS) == 1
    assert "TRELLIS_GRPC_ADDRESS must be host:port" in server.log.read_text()


def test_a_port_that_is_taken_is_said(server: Server) -> None:
    server.start()
    server.until_ready()
    before = len(server.log.read_text())
    second = server.start(TRELLIS_HTTP_ADDRESS="127.0.0.1:0")
    assert second.wait(SECONDS) == 1
    # The first one writes into the same log.
    assert any(str(server.grpc_port) in line for line in server.log.read_text()[before:].splitlines())
