"""Runs a private Ray and a server over one data folder until told to stop."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trellis.local.layout import DataDir
from trellis.local.ports import is_free
from trellis.local.processes import MARKER, Child, sweep
from trellis.local.ray_head import RayPorts, ray_command, ray_environment
from trellis.secret_files import make_secret_file

_POLL_SECONDS = 0.2
_READY_SECONDS = 180.0
_STOP_SECONDS = 20.0
_RAY_STOP_SECONDS = 2.0  # with Serve up it drains for long; nothing in it is worth waiting for
_ENGINE_CPUS = 1
"""What Ray may give to engines, beside the jobs' CPUs: taken from those, the last job would wait for ever."""
_LOCK_SECONDS = 1.0
"""So long a look at the lock, by `trellis status`, may keep it."""
_LOCK_POLL_SECONDS = 0.05
_LONGEST_PAUSE = 30.0
_STEADY_SECONDS = 60.0
DEFAULT_BASE = "trellis-tiny"


class StackError(RuntimeError):
    """The stack can't run; `str()` says why and what to do."""


@dataclass(frozen=True, slots=True)
class StackSettings:
    """What `trellis up` was asked for."""

    data: DataDir
    grpc_port: int
    http_port: int
    cpus: int
    """CPUs that Ray may give to jobs."""


class Stack:
    """Ray and the server as children that are started again when they die."""

    def __init__(self, settings: StackSettings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._ports = RayPorts.choose()
        self._stopping = threading.Event()
        data = settings.data
        environment = {**os.environ, MARKER: data.marker}
        self._ray = Child(
            "ray",
            ray_command(self._ports, data.ray_dir, settings.cpus + _ENGINE_CPUS),
            ray_environment(environment, self._ray_token),
            data.logs / "ray.log",
        )
        self._server = Child(
            "server",
            [sys.executable, "-m", "trellis.server"],
            {**environment, **self._server_environment()},
            data.logs / "server.log",
        )

    @property
    def _ray_token(self) -> Path:
        return self._settings.data.root / "ray.token"

    def stop(self) -> None:
        """Makes `run` end; may be called from a signal's handler."""
        self._stopping.set()

    def run(self, ready: Callable[[], None]) -> None:
        """Start everything, call `ready` once it serves, watch it until `stop`, and end it. Raises StackError."""
        data = self._settings.data
        data.create()
        with _only_one(data):
            data.state.unlink(missing_ok=True)
            left = sweep(data.marker)
            if left:
                self._say(f"Ended {left} processes that an earlier run had left behind.")
            self._check_ports()
            _write_secret(self._ray_token)
            self._make_ray_dir()
            try:
                self._start()
                if not self._stopping.is_set():
                    self._write_state()
                    ready()
                self._watch()
            finally:
                self._end()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Run on a thread of its own while the block runs, which begins once it serves. Raises StackError."""
        ready = threading.Event()
        with ThreadPoolExecutor(1, "stack") as thread:
            running = thread.submit(self.run, ready.set)
            running.add_done_callback(lambda _: ready.set())
            try:
                ready.wait()
                if not running.done():
                    yield
            finally:
                self.stop()
            running.result()

    def _check_ports(self) -> None:
        for flag, port in (("--grpc-port", self._settings.grpc_port), ("--http-port", self._settings.http_port)):
            if not is_free(port):
                raise StackError(f"Port {port} is in use by another program. Choose another one with {flag}.")

    def _make_ray_dir(self) -> None:
        folder = self._settings.data.ray_dir
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:  # somebody else may have laid one there
            raise StackError(f"The folder {folder} for Ray can't be made: {error}. Remove it.") from error

    def _start(self) -> None:
        self._say("Starting Ray …")
        self._ray.start()
        self._wait(self._ray, f"{self._ports.dashboard_url}/api/version", self._ray_token.read_text())
        if self._stopping.is_set():
            return
        self._say("Starting the server …")
        self._server.start()
        self._wait(self._server, f"http://127.0.0.1:{self._settings.http_port}/readyz")

    def _wait(self, child: Child, url: str, token: str = "") -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._stopping.wait(_POLL_SECONDS):
            if answers(url, token):
                return
            code = child.exit_code()
            if code is not None:
                raise StackError(
                    f"The {child.name} ended with code {code} while starting. The end of {child.log}:\n"
                    + child.last_lines()
                )
            if time.monotonic() > deadline:
                raise StackError(
                    f"The {child.name} did not answer at {url} within {_READY_SECONDS:.0f} s; see {child.log}."
                )

    def _watch(self) -> None:
        pauses = {child.name: 1.0 for child in (self._ray, self._server)}
        started = dict.fromkeys(pauses, time.monotonic())
        while not self._stopping.wait(_POLL_SECONDS):
            for child in (self._ray, self._server):
                code = child.exit_code()
                if code is None:
                    continue
                steady = time.monotonic() - started[child.name] > _STEADY_SECONDS
                pause = 1.0 if steady else pauses[child.name]
                self._say(f"The {child.name} ended with code {code}; starting it again in {pause:.0f} s.")
                if self._stopping.wait(pause):
                    return
                sweep(self._settings.data.marker, part=child.name)  # what it started holds its ports
                child.start()
                self._write_state()  # whose process ids are others now
                started[child.name] = time.monotonic()
                pauses[child.name] = min(_LONGEST_PAUSE, 2 * pause)

    def _end(self) -> None:
        data = self._settings.data
        self._say("Stopping …")
        self._server.stop(_STOP_SECONDS)
        self._ray.stop(_RAY_STOP_SECONDS)
        sweep(data.marker)
        shutil.rmtree(data.ray_dir, ignore_errors=True)
        data.state.unlink(missing_ok=True)

    def _server_environment(self) -> dict[str, str]:
        settings, data = self._settings, self._settings.data
        base = Path(__file__).parents[1] / "base_models" / DEFAULT_BASE
        return {
            "TRELLIS_DATABASE_URL": data.database_url,
            "TRELLIS_STORE_URL": str(data.objects),
            "TRELLIS_GRPC_ADDRESS": f"127.0.0.1:{settings.grpc_port}",
            "TRELLIS_HTTP_ADDRESS": f"127.0.0.1:{settings.http_port}",
            "TRELLIS_WORKER_ENDPOINT": f"127.0.0.1:{settings.grpc_port}",
            "TRELLIS_RAY_DASHBOARD_URL": self._ports.dashboard_url,
            "TRELLIS_RAY_TOKEN_FILE": str(self._ray_token),
            "TRELLIS_SERVE_PORT": str(self._ports.serve_http),
            "TRELLIS_SECRET_FILE": str(data.server_secret),
            "TRELLIS_ADMIN_KEY_FILE": str(data.admin_key),
            "TRELLIS_BASE_MODELS": f"{DEFAULT_BASE}={base}",
            "TRELLIS_ALWAYS_ON": DEFAULT_BASE,
            "TRELLIS_CAPACITY_CPUS": str(settings.cpus),
            "TRELLIS_JOB_CPUS": "1",
            # Two fit: of two bases, or beside one a job that runs by itself.
            "TRELLIS_TRAINER_CPUS": os.environ.get("TRELLIS_TRAINER_CPUS") or str(max(1, settings.cpus // 2)),
        }

    def _write_state(self) -> None:
        settings = self._settings
        state = {
            "pid": os.getpid(),
            "server_pid": self._server.pid,
            "ray_pid": self._ray.pid,
            "grpc_port": settings.grpc_port,
            "http_port": settings.http_port,
            "ray": asdict(self._ports),
        }
        scratch = settings.data.state.with_suffix(".tmp")
        scratch.write_text(json.dumps(state))
        scratch.replace(settings.data.state)


def answers(url: str, token: str = "", timeout: float = 2.0) -> bool:
    """Whether a GET of the URL, with the bearer token if one is given, is answered with success."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:  # noqa: S310  our own loopback URL
            return bool(response.status < 300)
    except (OSError, urllib.error.URLError):
        return False


def read_state(data: DataDir) -> dict[str, Any] | None:
    """What runs over this folder, or None if nothing does."""
    try:
        with data.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        pass
    try:
        state: dict[str, Any] = json.loads(data.state.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {"pid": _holder(data)}  # it is still starting
    return state


def _holder(data: DataDir) -> int | None:
    text = data.lock.read_text().strip()
    return int(text) if text.isdecimal() else None


def stop_running(data: DataDir, timeout: float = 60.0) -> bool:
    """End what runs over this folder, or what an earlier run left behind; False if there was nothing."""
    state = read_state(data)
    if state is None:
        return sweep(data.marker) > 0
    if state.get("pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while read_state(data) is not None:
        if time.monotonic() > deadline:
            raise StackError(f"Trellis did not stop within {timeout:.0f} s; see {data.logs}.")
        time.sleep(_POLL_SECONDS)
    sweep(data.marker)  # nothing, unless it was killed rather than stopped
    return True


@contextlib.contextmanager
def _only_one(data: DataDir) -> Iterator[None]:
    with data.lock.open("a+b") as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _locked(lock):
            if time.monotonic() > deadline:
                message = f"Trellis already runs over {data.root}. `trellis status` shows it; `trellis down` ends it."
                raise StackError(message)
            time.sleep(_LOCK_POLL_SECONDS)
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
        yield


def _locked(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_secret(path: Path) -> None:
    if not path.exists():
        make_secret_file(path, secrets.token_hex(32))
