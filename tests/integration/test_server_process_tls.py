"""The server as a process of its own, over TLS: clients with certificates, and an attempt without one."""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.authority import Authority
from tests.server_process import SECONDS, Server

import trellis
from trellis.local.ports import free_ports
from trellis.server.app.tokens import attempt_ticket
from trellis.server.secret import derived
from trellis_jobs.server import Server as JobsServer

LINE = '{"messages": [{"role": "user", "content": "ping"}, {"role": "assistant", "content": "pong"}]}\n'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, *free_ports(2))
    yield found
    found.end()


def admitted(server: Server, job: str) -> tuple[str, int]:
    """The uid and the attempt of the job, once it has one; read past the server."""
    pause, deadline = threading.Event(), time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with sqlite3.connect(f"file:{server.folder / 'trellis.db'}?mode=ro", uri=True) as database:
            found = database.execute(
                "SELECT uid, attempt_count FROM tuning_jobs WHERE job_id = ? AND attempt_count > 0", (job,)
            ).fetchone()
        if found:
            return str(found[0]), int(found[1])
        pause.wait(0.1)
    pytest.fail(f"The job was not admitted:\n{server.log.read_text()[-3000:]}")


def test_clients_with_certificates_and_an_attempt_without(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    pair, mine = authority.issue("server"), authority.issue("me")
    (jobs_port,) = free_ports(1)
    server.start(
        TRELLIS_TLS_CERTIFICATE_FILE=str(pair.certificate),
        TRELLIS_TLS_KEY_FILE=str(pair.key),
        TRELLIS_TLS_CLIENT_CA_FILE=str(authority.file),
        TRELLIS_TLS_WORKER_CA_FILE=str(authority.file),
        TRELLIS_WORKER_ADDRESS=f"127.0.0.1:{jobs_port}",
    )
    server.until_ready()
    monkeypatch.setenv("TRELLIS_CA_FILE", str(authority.file))
    monkeypatch.setenv("TRELLIS_CERTIFICATE_FILE", str(mine.certificate))
    monkeypatch.setenv("TRELLIS_CERTIFICATE_KEY_FILE", str(mine.key))
    data = tmp_path / "data.jsonl"
    data.write_text(LINE * 20)
    with server.client(tenant="acme") as client:
        client.tenants.create("acme")
        client.datasets.upload(data, dataset="pings")
        job = client.jobs.create("pings", distributed=trellis.DistributedSpec(workers=1))

        uid, attempt = admitted(server, job.name.rpartition("/")[2])
        secret = derived((server.folder / "server.secret").read_text().strip().encode(), "attempts").encode()
        monkeypatch.setenv("TRELLIS_WORKER_CA", authority.file.read_text())
        jobs = JobsServer(f"https://localhost:{jobs_port}", attempt_ticket(secret, uid, attempt))
        try:
            assert jobs.start("v1").tuning_job == job.name
        finally:
            jobs.close()
        assert client.jobs.get(job.name).state is trellis.JobState.RUNNING
    with (
        trellis.Client(f"localhost:{server.grpc_port}", server.key, tls=authority.file, certificate=("", "")) as bare,
        pytest.raises(trellis.InvalidArgument, match="asks every client for a certificate"),
    ):
        bare.tenants.get("acme")
    credentials = grpc.ssl_channel_credentials(
        authority.file.read_bytes(), mine.key.read_bytes(), mine.certificate.read_bytes()
    )
    with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert "PRIVATE KEY" not in server.log.read_text()


def test_files_that_are_of_no_use_are_said_at_the_start(server: Server, tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("server")
    pair.key.write_text("no key")
    process = server.start(TRELLIS_TLS_CERTIFICATE_FILE=str(pair.certificate), TRELLIS_TLS_KEY_FILE=str(pair.key))
    assert process.wait(SECONDS) == 1
    said = server.log.read_text()
    assert re.search(r"TRELLIS_TLS_…, \S+server\.pem and \S+server\.key are not a PEM certificate and its key", said)
    issuers = tmp_path / "issuers.toml"
    issuers.write_text("[[issuers]]\nissuer = 'http://login.example'\naudiences = ['x']\n")
    assert server.start(TRELLIS_OIDC_FILE=str(issuers)).wait(SECONDS) == 1
    assert "must begin with https://" in server.log.read_text()
