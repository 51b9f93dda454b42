"""The supervisor, over children that are quicker to start than Ray and the server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.unit.local.patience import until

from trellis.local.layout import DataDir
from trellis.local.ports import free_ports, is_free
from trellis.local.processes import MARKER, Child, marked_pids, sweep
from trellis.local.stack import Stack, StackError, StackSettings, _write_secret, read_state, stop_running

ANSWERS = """
import http.server, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
if sys.argv[2:]:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
server.serve_forever()
"""
# Holds the lock as a supervisor does, and ends when it is told to.
HOLDS = """
import sys
from pathlib import Path
from signal import SIGTERM, sigwait, pthread_sigmask, SIG_BLOCK
from trellis.local.layout import DataDir
from trellis.local.stack import _only_one
pthread_sigmask(SIG_BLOCK, {SIGTERM})
with _only_one(DataDir(Path(sys.argv[1]))):
    print("held", flush=True)
    sigwait({SIGTERM})
"""


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    made = DataDir(tmp_path / "data")
    made.create()
    yield made
    sweep(made.marker, grace=0.0)


class Running:
    """A stack that runs from `start` to `stop`."""

    def __init__(self, data: DataDir) -> None:
        grpc_port, http_port = free_ports(2)
        self.said: list[str] = []
        self.stack = Stack(StackSettings(data, grpc_port, http_port, 1), self.said.append)
        environment = {**os.environ, MARKER: data.marker}
        code = [sys.executable, "-c", ANSWERS]
        self.ray = Child("ray", [*code, str(self.stack._ports.dashboard), "child"], environment, data.logs / "ray.log")
        self.server = Child("server", [*code, str(http_port)], environment, data.logs / "server.log")
        self.stack._ray, self.stack._server = self.ray, self.server
        self._serving = ExitStack()

    def start(self) -> None:
        self._serving.enter_context(self.stack.serving())

    def stop(self) -> None:
        self._serving.close()


@pytest.fixture
def running(data: DataDir) -> Iterator[Running]:
    made = Running(data)
    yield made
    made.stop()


def test_a_stack_runs_until_it_is_stopped_and_leaves_nothing(data: DataDir, running: Running) -> None:
    assert read_state(data) is None
    running.start()
    state = read_state(data)
    assert state is not None
    assert (state["pid"], state["server_pid"], state["ray_pid"]) == (os.getpid(), running.server.pid, running.ray.pid)
    assert state["ray"]["dashboard"] == running.stack._ports.dashboard
    running.stop()
    assert read_state(data) is None
    assert not data.state.exists()
    assert not data.ray_dir.exists()
    assert marked_pids(data.marker) == []


def test_a_second_one_over_the_same_folder_is_refused_and_harms_nothing(data: DataDir, running: Running) -> None:
    running.start()
    with pytest.raises(StackError, match="already runs"):
        Running(data).start()
    state = read_state(data)
    assert state is not None
    assert state["pid"] == os.getpid()
    assert running.server.exit_code() is None


def test_a_child_that_dies_is_started_again_without_what_it_left(data: DataDir, running: Running) -> None:
    running.start()
    first = running.ray.pid
    assert first is not None
    left = set(marked_pids(data.marker)) - {first, running.server.pid}
    assert len(left) == 1
    os.kill(first, signal.SIGKILL)
    until(lambda: running.ray.pid != first and len(marked_pids(data.marker)) == 3, "another start")
    assert not left & set(marked_pids(data.marker)), "what holds its ports is gone"
    assert running.server.exit_code() is None
    assert any("The ray ended with code -9" in line for line in running.said)


def test_a_child_that_can_t_start_is_quoted(data: DataDir, running: Running) -> None:
    running.stack._server = Child("server", ["/bin/sh", "-c", "echo no such thing; exit 4"], {}, data.logs / "x.log")
    with pytest.raises(StackError, match=r"(?s)ended with code 4 .*no such thing"):
        running.start()
    assert marked_pids(data.marker) == []


def test_a_port_that_is_taken_is_named(data: DataDir, running: Running) -> None:
    other = Child("other", [sys.executable, "-c", ANSWERS, str(running.stack._settings.http_port)],
                  {**os.environ, MARKER: data.marker + "0"}, data.logs / "other.log")  # fmt: skip
    other.start()
    try:
        until(lambda: not is_free(running.stack._settings.http_port))
        with pytest.raises(StackError, match=rf"Port {running.stack._settings.http_port} is in use.* --http-port"):
            running.start()
    finally:
        other.stop(5.0)


def test_what_an_earlier_run_left_is_ended_at_the_start(data: DataDir, running: Running) -> None:
    left = Child("left", ["/bin/sleep", "600"], {MARKER: data.marker}, data.logs / "left.log")
    left.start()
    until(lambda: left.pid in marked_pids(data.marker))
    running.start()
    until(lambda: left.exit_code() is not None)
    assert "Ended 1 processes that an earlier run had left behind." in running.said


def hold(data: DataDir) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(data.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_one_that_is_still_starting_can_be_stopped(data: DataDir) -> None:
    process = hold(data)
    assert read_state(data) == {"pid": process.pid}
    assert stop_running(data, timeout=30.0)
    assert process.wait(30) == 0


def test_a_state_that_a_crash_left_names_nobody(data: DataDir) -> None:
    bystander = subprocess.Popen(["/bin/sleep", "600"])
    try:
        data.state.write_text(json.dumps({"pid": bystander.pid}))
        assert read_state(data) is None
        assert not stop_running(data)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_stopping_ends_what_a_killed_supervisor_left(data: DataDir) -> None:
    left = Child("left", ["/bin/sleep", "600"], {MARKER: data.marker}, data.logs / "left.log")
    left.start()
    until(lambda: left.pid in marked_pids(data.marker))
    assert stop_running(data)
    until(lambda: left.exit_code() is not None)


def test_nothing_runs_over_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert read_state(DataDir(tmp_path / "nowhere")) is None
    assert not stop_running(DataDir(tmp_path / "nowhere"))


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    _write_secret(path)
    first = path.read_text()
    _write_secret(path)
    assert path.read_text() == first
    assert len(first) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
