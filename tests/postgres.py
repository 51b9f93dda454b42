"""A throw-away PostgreSQL server for tests, from the programs that the machine has."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

SUPERUSER = "trellis"
INSTALL_HINT = "PostgreSQL's server programs are not installed (Debian, Ubuntu: sudo apt-get install postgresql)"
# Nothing here outlives the session, so nothing waits for a disk.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "min_wal_size": "32MB",
    "max_wal_size": "128MB",  # its log is in memory, too
}
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 1 << 30
"""How much must be free there."""


def find_programs() -> Path | None:
    """The folder that holds `initdb` and `postgres`, newest version first; None where there is none."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    candidates = [*packaged, *([Path(on_path).resolve().parent] if on_path else [])]
    return next((c for c in candidates if (c / "initdb").exists() and (c / "postgres").exists()), None)


def _unprivileged_user() -> str | None:
    """Whom to run as: PostgreSQL refuses root. None keeps the present user."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _folder_for(settings: Mapping[str, str]) -> Path:
    """In memory where nothing is to be kept: a database is 600 files, which take several times as long on a disk.

    Directly in the folder: a socket's path has room for 107 bytes.
    """
    has_room = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES
    in_memory = has_room and settings["fsync"] == "off"
    return Path(tempfile.mkdtemp(prefix="trellis-pg-", dir=_MEMORY if in_memory else None))


def _with_parent(user: str | None) -> list[str]:
    """What to begin a command with, so that it runs as this user, and is shut down when the tests' process is gone.

    Another program sees to both: a child that is forked beside gRPC's threads and still runs Python dies at times.
    """
    return ["setpriv", "--pdeathsig=SIGQUIT", *([f"--reuid={user}"] if user else []), "--"]


DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
"""Changes for a server that is killed, and whose commits must outlive it."""


def _until_gone(pids: Sequence[int], seconds: float = 30) -> None:
    """A server can't be started again while a process of the last one has its shared memory."""
    deadline = time.monotonic() + seconds
    while any(_lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class PostgresServer:
    """A cluster in a temporary folder, in memory where it can be, reachable through a unix socket in it and nothing else."""

    def __init__(self, programs: Path, changes: Mapping[str, str] | None = None) -> None:
        self._programs = programs
        self._settings = {**_SETTINGS, **(changes or {})}
        self._user = _unprivileged_user()
        self._folder = _folder_for(self._settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def start(self) -> None:
        """Make the cluster and wait until it answers. Raises RuntimeError with the server's log if it does not."""
        if self._user:
            shutil.chown(self._folder, self._user)
        data = self._folder / "data"
        self._run("initdb", "--no-sync", "--auth=trust", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C",
                  "-D", str(data))  # fmt: skip
        self.start_again()

    def start_again(self, *, standby: bool = False) -> None:
        """Start it over the data that it has, after `kill`; it recovers by its log first.

        A standby goes on recovering, answers what reads, and takes writes when it is promoted.
        """
        if standby:
            (self._folder / "data/standby.signal").touch()
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        with (self._folder / "log").open("ab") as log:
            command = [self._programs / "postgres", "-D", self._folder / "data", "-k", self._folder, *settings]
            self._process = subprocess.Popen(
                [*_with_parent(self._user), *command], cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        self._wait_until_ready()

    def kill(self) -> None:
        """SIGKILL to all of its processes at once; what was committed with `fsync` on is there after `start_again`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # no child is born meanwhile
        children = self._children()
        self.signal(signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None
        _until_gone(children)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and to each process that serves a connection."""
        assert self._process is not None
        for pid in (self._process.pid, *self._children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End the server, and remove all it wrote. May be called twice."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def change(self, name: str, value: str) -> None:
        """Change a setting of the running server, for everybody who connects and for those who are connected."""
        self._execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        self._execute(sql.SQL("SELECT pg_reload_conf()").format())

    def execute(self, statements: LiteralString) -> None:
        """Run SQL as the superuser."""
        self._execute(sql.SQL(statements).format())

    def program(self, name: str) -> Path:
        """The path of one of its programs, such as `pg_dump`."""
        return self._programs / name

    @property
    def socket(self) -> Path:
        """The socket at which it listens."""
        return self._folder / ".s.PGSQL.5432"

    def tcp_url(self, database: str, port: int) -> str:
        """The URL of a database behind a proxy on this machine."""
        return f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{port}/{database}"

    def create_database(self, template: str = "template0") -> str:
        """A new database's name; empty, or a copy of `template`."""
        self._count += 1
        name = f"test_{self._count}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, ending connections that a test left open."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of one of this server's databases; good for sync and async engines."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={self._folder}"

    def _execute(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)

    def _children(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self._folder), user=SUPERUSER, dbname="postgres", autocommit=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            self.stop()
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")

    def _wait_until_ready(self, seconds: float = 30) -> None:
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._connect().close()
            except psycopg.OperationalError:
                time.sleep(0.02)  # a real server is starting; nothing else tells when it is done
            else:
                return
        log = (self._folder / "log").read_text()
        self.stop()
        raise RuntimeError(f"PostgreSQL did not start:\n{log}")
