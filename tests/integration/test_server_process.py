"""The server as a process of its own, over SQLite and without a Ray that answers."""

import json
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server_process import SECONDS, Server

import trellis
from trellis.local.ports import free_ports

LINE = {"messages": [{"role": "user", "content": "ping"}, {"role": "assistant", "content": "pong"}]}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, *free_ports(2))
    yield found
    found.end()


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
