"""A whole installation of real processes: two servers, PostgreSQL, an S3 server behind a door, a Ray of two nodes."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trellis
from tests.chaos.door import Door
from tests.postgres import PostgresServer, find_programs
from tests.swift_process import CREDENTIALS, is_ready, swift_command
from trellis.local.ports import free_ports
from trellis.local.processes import MARKER, Child, marked_pids, sweep
from trellis.local.ray_head import RayPorts, ray_command, ray_environment
from trellis.local.stack import answers
from trellis.objects import ObjectStore

HEAD: Final = "ray-head"
NODE: Final = "ray-node"
S3: Final = "s3"
SERVERS: Final = ("server-1", "server-2")
BUCKET: Final = "trellis-chaos"
BASE: Final = Path(trellis.__file__).parent / "base_models" / "trellis-tiny"
LEASE_SECONDS: Final = 10.0
_READY_SECONDS = 180.0
_LOOK_SECONDS = 0.3
_TOKEN = "c" * 64
_USUAL = ('"level": "info"', "is busy or can't be reached", "dashboard at", "not_renewed", "_unreachable")


class Installation:
    """Processes by name, each started again when it dies, as an orchestrator does, unless it is held down."""

    def __init__(self, folder: Path, say: Callable[[str], None], *, two_nodes: bool = True) -> None:
        self.folder = folder
        self.say = say
        self._ray: Final = (HEAD, NODE) if two_nodes else (HEAD,)
        self.marker = uuid.uuid4().hex[:16]
        self.ray_ports = RayPorts.choose()
        ports = iter(free_ports(12))
        self.grpc_ports = {name: next(ports) for name in SERVERS}
        self.http_ports = {name: next(ports) for name in SERVERS}
        self.door = Door(next(ports), next(ports))
        self._node_ports = [next(ports) for _ in range(4)]
        programs = find_programs()
        assert programs is not None, "PostgreSQL's server programs are not installed"
        # A kill must lose nothing that was committed, which is why this one waits for the disk.
        settings = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "autovacuum": "on"}
        self.postgres = PostgresServer(programs, settings)
        self.database_url = ""
        self.children: dict[str, Child] = {}
        self.held_down: set[str] = set()
        self.minded = False
        """Whether what dies is started again."""
        self._token_file = folder / "ray.token"
        self._ray_folder = Path(tempfile.mkdtemp(prefix="tc-"))  # short: a socket's path has room for 107 bytes

    @property
    def endpoint(self) -> str:
        """Both servers, for the SDK."""
        return ",".join(f"127.0.0.1:{port}" for port in self.grpc_ports.values())

    @property
    def admin_key(self) -> str:
        """The first admin's."""
        return (self.folder / "admin.key").read_text().strip()

    @property
    def store(self) -> ObjectStore:
        """The object store past the door, which no fault reaches but those of the S3 server itself."""
        credentials = {"key": CREDENTIALS["AWS_ACCESS_KEY_ID"], "secret": CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
        options = {
            "endpoint_url": f"http://127.0.0.1:{self.door.target}",
            "client_kwargs": {"region_name": "us-east-1"},
        }
        return ObjectStore.open(f"s3://{BUCKET}/prefix", **credentials, **options)

    async def start(self) -> None:
        """Start everything and wait until both servers serve."""
        self._token_file.write_text(_TOKEN)
        await asyncio.to_thread(self.postgres.start)
        self.database_url = self.postgres.url(self.postgres.create_database())
        self._make_children()
        for name in (S3, HEAD):
            self.children[name].start()
        await self._until(lambda: is_ready(self.door.target), "the S3 server answers")
        await asyncio.to_thread(lambda: self.store._fs.call_s3("create_bucket", Bucket=BUCKET))
        await self.door.open()
        await self._until(lambda: self.is_ray_up, "Ray answers")
        for name in (*self._ray[1:], *SERVERS):
            self.children[name].start()
        await self.until_servers_serve()

    async def until_servers_serve(self) -> None:
        """Return when both do."""
        for name in SERVERS:
            await self._until(partial(self.serves, name), f"{name} serves")

    def serves(self, name: str) -> bool:
        """Whether a server says that it is ready."""
        return answers(f"http://127.0.0.1:{self.http_ports[name]}/readyz")

    @property
    def is_ray_up(self) -> bool:
        """Whether its dashboard answers."""
        return answers(f"{self.ray_ports.dashboard_url}/api/version", _TOKEN)

    async def mind(self) -> None:
        """Start again what died, until cancelled."""
        self.minded = True
        while True:
            for name in (S3, *self._ray, *SERVERS):
                child = self.children[name]
                code = child.exit_code()
                if code is None or name in self.held_down:
                    continue
                why = child.last_lines(3) if code >= 0 else ""  # by itself, not by a fault
                self.say(f"{name} ended with {code} and is started again {why}".rstrip())
                await asyncio.to_thread(sweep, self.marker, 1.0, name)
                child.start()
            await asyncio.sleep(_LOOK_SECONDS)

    def pids(self, part: str) -> list[int]:
        """The processes of a part; those that it started, too."""
        return marked_pids(self.marker, part)

    def all_pids(self) -> list[int]:
        """All of the installation's processes but PostgreSQL's."""
        return marked_pids(self.marker)

    @staticmethod
    def line(pid: int) -> str:
        """The command line of a process."""
        return command_line(pid)

    @property
    def ray_token(self) -> str:
        """What Ray asks for."""
        return _TOKEN

    def pids_of(self, words: str) -> list[int]:
        """The installation's processes with these words in their command lines."""
        return [pid for pid in marked_pids(self.marker) if words in command_line(pid)]

    def last_words(self, lines: int = 30) -> str:
        """The ends of the servers' logs, without what is usual."""
        return "".join(f"\n--- {name}\n{_remarkable(self.children[name].log, lines)}" for name in SERVERS)

    async def end(self) -> None:
        """Kill everything, and leave nothing behind."""
        self.held_down.update(self.children)
        await self.door.close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        for pid in marked_pids(self.marker):
            send(signal.SIGCONT, pid)
        for name in SERVERS:
            self.children[name].stop(5.0) if name in self.children else None
        for child in self.children.values():
            child.stop(0.5)
        sweep(self.marker, 1.0)
        with contextlib.suppress(AssertionError):
            self.postgres.signal(signal.SIGCONT)
        self.postgres.stop()
        shutil.rmtree(self._ray_folder, ignore_errors=True)

    def _make_children(self) -> None:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("TRELLIS_", "AWS_"))}
        environment = {**mine, MARKER: self.marker, **self._s3_variables()}
        ray = ray_environment(environment, self._token_file)
        # A node whose head is another one now should find out before the run is over; a minute is what Ray takes.
        # And Ray would let the engine wait for all that has work on a busy machine.
        ray |= {"RAY_gcs_rpc_server_reconnect_timeout_s": "15", "RAY_worker_niceness": "0"}
        commands = {
            S3: (swift_command(self.folder / S3, self.door.target), environment),
            HEAD: (
                ray_command(self.ray_ports, self._ray_folder, 2),
                ray,
            ),  # room for a trainer and the engine beside it
            NODE: (self._node_command(), ray),
        }
        commands = {name: command for name, command in commands.items() if name == S3 or name in self._ray}
        for name in SERVERS:
            variables = {**environment, **self._server_variables(name)}
            commands[name] = ([sys.executable, "-m", "trellis.server"], variables)
        for name, (command, variables) in commands.items():
            self.children[name] = Child(name, command, variables, self.folder / f"{name}.log")

    def _node_command(self) -> list[str]:
        agent_http, agent_grpc, runtime_env, metrics = self._node_ports
        options = {
            "address": f"127.0.0.1:{self.ray_ports.gcs}",
            "node-ip-address": "127.0.0.1",
            "dashboard-agent-listen-port": agent_http,
            "dashboard-agent-grpc-port": agent_grpc,
            "runtime-env-agent-port": runtime_env,
            "metrics-export-port": metrics,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "num-cpus": 1,
            "object-store-memory": 128 * 1024 * 1024,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        return [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *flags]

    def _s3_variables(self) -> dict[str, str]:
        return {
            **CREDENTIALS,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.door.port}",
        }

    def _server_variables(self, name: str) -> dict[str, str]:
        return {
            "TRELLIS_DATABASE_URL": self.database_url,
            "TRELLIS_STORE_URL": f"s3://{BUCKET}/prefix",
            "TRELLIS_SECRET_FILE": str(self.folder / "server.secret"),
            "TRELLIS_ADMIN_KEY_FILE": str(self.folder / "admin.key"),
            "TRELLIS_GRPC_ADDRESS": f"127.0.0.1:{self.grpc_ports[name]}",
            "TRELLIS_HTTP_ADDRESS": f"127.0.0.1:{self.http_ports[name]}",
            "TRELLIS_WORKER_ENDPOINT": f"ipv4:{self.endpoint}",  # gRPC's own way to name several
            "TRELLIS_RAY_DASHBOARD_URL": self.ray_ports.dashboard_url,
            "TRELLIS_RAY_TOKEN_FILE": str(self._token_file),
            "TRELLIS_SERVE_PORT": str(self.ray_ports.serve_http),
            "TRELLIS_BASE_MODELS": f"trellis-tiny={BASE}",
            "TRELLIS_ALWAYS_ON": "trellis-tiny",
            "TRELLIS_CAPACITY_CPUS": "1",
            "TRELLIS_TRAINER_CPUS": "1",
            "TRELLIS_JOB_CPUS": "1",
            "TRELLIS_LEASE_SECONDS": str(LEASE_SECONDS),
            "TRELLIS_STOP_GRACE_SECONDS": "15",
            "TRELLIS_TENANT_RUNNING_LIMIT": "8",
        }

    async def _until(self, found: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not await asyncio.to_thread(found):
            for name, child in self.children.items():
                ended = child.pid is not None and child.exit_code() is not None
                assert self.minded or not ended, f"{name} ended: {child.last_lines(40)}"
            assert time.monotonic() < deadline, f"{what}: not in time\n{self.last_words()}"
            await asyncio.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def installation(say: Callable[[str], None], *, two_nodes: bool = True) -> AsyncIterator[Installation]:
    """One that serves; whatever comes, none of its processes or files is left."""
    with tempfile.TemporaryDirectory(prefix="trellis-chaos-") as folder:
        found = Installation(Path(folder), say, two_nodes=two_nodes)
        try:
            await found.start()
            minder = asyncio.create_task(found.mind())
            try:
                yield found
            finally:
                minder.cancel()
                await asyncio.gather(minder, return_exceptions=True)
        finally:
            await found.end()


def _remarkable(log: Path, count: int) -> str:
    """The last lines that are neither information nor say that something is away, each cut short."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([line[:1500] for line in lines if not any(word in line for word in _USUAL)][-count:])


def command_line(pid: int) -> str:
    """What was started; empty for what has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def send(number: signal.Signals, *pids: int) -> None:
    """Send a signal; one that has gone is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


__all__ = ["HEAD", "NODE", "S3", "SERVERS", "Installation", "command_line", "installation", "send"]
