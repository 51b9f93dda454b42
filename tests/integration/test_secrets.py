"""Secrets are nowhere that anybody could read them: a real server at DEBUG, real calls, and a look at all that it wrote."""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.server_process import SECONDS, Server

import trellis
from trellis.local.ports import free_ports
from trellis.server.bootstrap import _attempts_secret
from trellis.server.secret import derived
from trellis.v1 import trainer_pb2, worker_pb2
from trellis.v1.trainer_pb2_grpc import TrainerServiceStub
from trellis.v1.worker_pb2_grpc import WorkerServiceStub

LINE = {"messages": [{"role": "user", "content": "ping"}, {"role": "assistant", "content": "pong"}]}
RAY_TOKEN = "ray0123456789abcdefray0123456789abcdef"
WEB_TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0.eyJzdWIiOiJhbm4iLCJpc3MiOiJodHRwczovL2lzc3VlciJ9.c2lnbmF0dXJlb2Zhbm4"
WRONG_KEY = "trk_" + "wrong0123456789" * 3
MISPLACED = "trk_" + "misplaced012345" * 3
NONCE = "nonce0123456789abcdefnonce0123456789abcdef"
ROOM = trainer_pb2.TrainerRoom(jobs=4, rank_rows=64, line_tokens=4096)


class Dashboard(ThreadingHTTPServer):
    """Ray's job API: takes every run, and remembers what anybody who may look at it would see."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.arrived = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        if self.path == "/api/jobs/":
            self._answer(200, [])
        elif any(run["submission_id"] in self.path for run in self.server.submitted):
            self._answer(200, {"status": "RUNNING", "message": ""})
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"] or 0)) or b"{}")
        if "submission_id" in body:
            self.server.submitted.append(body)
            self.server.arrived.set()
        self._answer(200, {})

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def ray() -> Iterator[Dashboard]:
    with Dashboard() as dashboard:
        thread = threading.Thread(target=dashboard.serve_forever)
        thread.start()
        yield dashboard
        dashboard.shutdown()
        thread.join()


@pytest.fixture
def server(tmp_path: Path, ray: Dashboard) -> Iterator[Server]:
    found = Server(tmp_path, *free_ports(2))
    (tmp_path / "ray.token").write_text(RAY_TOKEN)
    found.start(
        TRELLIS_LOG_LEVEL="debug",
        TRELLIS_RAY_DASHBOARD_URL=ray.url,
        TRELLIS_RAY_TOKEN_FILE=str(tmp_path / "ray.token"),
    )
    found.until_ready()
    yield found
    found.end()


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


class Life:
    """What happens on a platform, the secrets that took part, and what callers heard."""

    def __init__(self, server: Server, ray: Dashboard, data: Path) -> None:
        self.server, self.ray, self.data = server, ray, data
        self.secrets = {"admin": server.key, "wrong": WRONG_KEY, "web": WEB_TOKEN, "ray": RAY_TOKEN, "nonce": NONCE}
        self.heard: list[str] = []

    def live(self) -> None:
        self.keys()
        self.mistakes()
        self.job()

    def keys(self) -> None:
        with self.server.client() as admin:
            admin.tenants.create("acme")
            made = admin.api_keys.create("tenants/acme", role=trellis.Role.TENANT_ADMIN)
            self.secrets["first"] = made.secret
            self.secrets["rotated"] = admin.api_keys.rotate(made.api_key.name).secret
            gone = admin.api_keys.create("tenants/acme")
            self.secrets["revoked"] = gone.secret
            admin.api_keys.revoke(gone.api_key.name)

    def mistakes(self) -> None:
        """Secrets that open nothing, and one that was put where names belong."""
        for who in ("wrong", "web", "first", "revoked"):
            with self.server.client(self.secrets[who], tenant="acme") as client:
                self.hear(lambda client=client: list(client.datasets.list()))
        with self.server.client(self.secrets["rotated"], tenant="acme") as client:
            self.hear(lambda: client.datasets.get(f"tenants/acme/datasets/{MISPLACED}"))
            self.hear(lambda: client.datasets.get(f"tenants/globex/datasets/{MISPLACED}"))
            client.datasets.create("shown", display_name=f"key {MISPLACED}")
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}") as channel:
            stub = WorkerServiceStub(channel)
            metadata = (*bearer(WRONG_KEY), ("x-request-id", MISPLACED))
            with pytest.raises(grpc.RpcError):
                stub.StartAttempt(worker_pb2.StartAttemptRequest(), metadata=metadata, timeout=SECONDS)

    def hear(self, deed: Any) -> None:
        with pytest.raises(trellis.TrellisError) as caught:
            deed()
        self.heard.append(str(caught.value))

    def job(self) -> None:
        """A job's trainer is launched, begins with its ticket, and trains."""
        with self.server.client(self.secrets["rotated"], tenant="acme") as client:
            client.datasets.upload(self.data, dataset="pings")
            job = client.jobs.create("pings")
            assert self.ray.arrived.wait(SECONDS), self.server.log.read_text()
            ticket = self.ray.submitted[0]["runtime_env"]["env_vars"]["TRELLIS_TRAINER_TICKET"]
            self.secrets["ticket"] = ticket
            with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}") as channel:
                self.train(channel, ticket)
            assert "SUCCEEDED" not in client.jobs.get(job.name).state

    def train(self, channel: grpc.Channel, ticket: str) -> None:
        trainers, workers = TrainerServiceStub(channel), WorkerServiceStub(channel)
        start = trainer_pb2.StartTrainerRequest(nonce=NONCE)
        token = trainers.StartTrainer(start, metadata=bearer(ticket), timeout=SECONDS).token
        claim = trainer_pb2.ClaimAttemptsRequest(room=ROOM, wait_seconds=5)
        (given,) = trainers.ClaimAttempts(claim, metadata=bearer(token), timeout=SECONDS).attempts
        self.secrets.update(trainer=token, attempt=given.token)
        workers.StartAttempt(worker_pb2.StartAttemptRequest(), metadata=bearer(given.token), timeout=SECONDS)
        report = worker_pb2.ReportAttemptRequest(report=1, log_text="training\n")
        workers.ReportAttempt(report, metadata=bearer(given.token), timeout=SECONDS)
        stolen = trainer_pb2.StartTrainerRequest(nonce=NONCE[::-1])
        with pytest.raises(grpc.RpcError, match="Another process has used this ticket"):
            trainers.StartTrainer(stolen, metadata=bearer(ticket), timeout=SECONDS)


@pytest.fixture
def life(server: Server, ray: Dashboard, tmp_path: Path) -> Life:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(LINE) + "\n" for _ in range(20)))
    found = Life(server, ray, data)
    found.live()
    secret = (tmp_path / "server.secret").read_text().strip().encode()
    engines, attempts = derived(secret, "engines"), _attempts_secret(secret).decode()
    found.secrets.update(server=secret.decode(), engines=engines, attempts=attempts)
    return found


def test_secrets_are_in_nothing_that_is_kept_logged_answered_or_shown(life: Life, server: Server) -> None:
    waited, trail = threading.Event(), list[str]()
    for _ in range(100):  # refusals are written beside their answers
        with server.client() as admin:
            trail = [str(event) for event in admin.audit.list("-")]
        if sum("UNAUTHENTICATED" in event for event in trail) >= 5:
            break
        waited.wait(0.1)
    rows = _rows(server.folder / "trellis.db")
    places = {
        "the log": server.log.read_text(),
        "the trail": "\n".join(trail),
        "errors": "\n".join(life.heard),
        "the database": "\n".join(text for table, text in rows),
        "command lines": "\n".join(_command_lines(server.started[0].pid)),
        "what Ray shows, but for the ticket": _shown(life),
    }
    assert "CreateApiKey" in places["the trail"]
    assert "run_submitted" in places["the log"]
    assert "display_name" in places["the trail"]
    found = [
        f"{who} in {place}" for who, secret in life.secrets.items() for place, text in places.items() if secret in text
    ]
    assert found == []
    assert MISPLACED not in places["the log"] + places["the trail"]
    kept = {table for table, text in rows if MISPLACED in text}
    assert kept == {"datasets"}, "what the caller wrote as a name is its own; nothing else repeats it"


def test_what_ray_shows_opens_nothing_any_more(life: Life, server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for value in _values(life.ray.submitted):
            stub = TrainerServiceStub(channel)
            deeds: tuple[tuple[Any, Any], ...] = (
                (stub.StartTrainer, trainer_pb2.StartTrainerRequest(nonce="x" * 32)),
                (stub.ClaimAttempts, trainer_pb2.ClaimAttemptsRequest()),
            )
            for deed, request in deeds:
                with pytest.raises(grpc.RpcError) as caught:
                    deed(request, metadata=bearer(value), timeout=SECONDS)
                assert caught.value.code().name in {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def _rows(path: Path) -> list[tuple[str, str]]:
    """Every text of every table."""
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [(table, repr(row)) for table in tables for row in database.execute(f'SELECT * FROM "{table}"')]


def _command_lines(pid: int) -> list[str]:
    """Of the process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    assert "trellis.server" in own
    return [own, *(line for child in children for line in _command_lines_of(child))]


def _command_lines_of(pid: str) -> list[str]:
    return [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()]


def _shown(life: Life) -> str:
    return json.dumps(life.ray.submitted).replace(life.secrets["ticket"], "")


def _values(submitted: list[dict[str, Any]]) -> set[str]:
    """All that is long enough to be a secret."""
    return set(re.findall(r"[A-Za-z0-9_.-]{16,}", json.dumps(submitted)))
