"""Child processes, and the certainty that none is left behind."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

MARKER = "TRELLIS_STACK"
"""The environment variable by which a stack's processes are found, grandchildren too."""
PART = "TRELLIS_STACK_PART"
"""The environment variable that says which child a process belongs to."""
_POLL_SECONDS = 0.05
_KILL_SECONDS = 10.0


class Child:
    """A process of ours with its own log file; started again by whoever watches it."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = {**environment, PART: name}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process, in a session of its own: Ctrl-C reaches only whoever watches it."""
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The process's id, once it was started."""
        return self._process.pid if self._process else None

    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll() if self._process else None

    def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL to its whole session after `grace` seconds."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def last_lines(self, count: int = 12) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def marked_pids(marker: str, part: str | None = None) -> list[int]:
    """All processes, but this one, that carry the marker in their environment; only those of one child if it is named."""
    return marked_by({f"{MARKER}={marker}", *([f"{PART}={part}"] if part else [])})


def marked_by(variables: Collection[str]) -> list[int]:
    """All processes, but this one, whose environment began with all of these `NAME=value`, and what they started.

    A process that gives itself a title, as Ray's do, may write it over its environment; then it counts with its parent.
    """
    wanted = {variable.encode() for variable in variables}
    names = tuple(variable.partition(b"=")[0] + b"=" for variable in wanted)
    found: list[int] = []
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            known = set((entry / "environ").read_bytes().split(b"\0"))
            if wanted <= known:
                found.append(int(entry.name))
            elif not any(each.startswith(names) for each in known - wanted):
                parents[int(entry.name)] = _parent(entry)
    for pid in found:  # it grows meanwhile
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _parent(entry: Path) -> int:
    """The id of the process that started one, as long as both live; else 0 or 1."""
    state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
    return 0 if state == "Z" else int(parent)


def sweep(marker: str, grace: float = 5.0, part: str | None = None) -> int:
    """End every process that carries the marker (of one child, if it is named), and return how many there were."""
    pids = marked_pids(marker, part)
    first = len(pids)
    _send(pids, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while pids and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        pids = marked_pids(marker, part)
    # Again and again, because what is being killed may still fork; not for ever, because a dying disk holds on to some.
    deadline = time.monotonic() + _KILL_SECONDS
    while pids and time.monotonic() < deadline:
        _send(pids, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
        pids = marked_pids(marker, part)
    return first


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
