"""A system under measurement: a process of its own, started once, which waits on a pipe while others run."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.workload import Workload

_ROOT: Final = Path(__file__).parents[3]
_ENVIRONMENT: Final = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
_THREADS: Final = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""What a shell may have set for a machine with other work on it; here each library gets its own defaults."""
_END_SECONDS: Final = 20.0


class BrokenSystemError(RuntimeError):
    """The system can't be started or has ended; `str()` says why."""


class System:
    """One process and the way to it. It is stopped while nothing is asked of it: threads that spin for a while after their
    last work, as vLLM's do, would take the CPUs from the first requests of the system that is measured next.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.versions: dict[str, str] = {}
        inherited = {name: value for name, value in os.environ.items() if name not in _THREADS}
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                cwd=_ROOT,
                env={**inherited, **_ENVIRONMENT, **environment},
                start_new_session=True,
                text=True,
            )

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.versions = self._read()["versions"]
            self._signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it with all that it started."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        self._signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()

    def ask(self, what: str, **values: Any) -> dict[str, Any]:
        """Ask it for something."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps({"do": what, **values}) + "\n")
        self._process.stdin.flush()
        found = self._read()
        self._signal(signal.SIGSTOP)
        return found

    def run(self, workload: Workload) -> Timing:
        """Let it answer a workload."""
        return Timing.from_json(self.ask("run", workload=workload.to_json()))

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended, as reading will find
            os.killpg(self._process.pid, number)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in found:
            end = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
            raise BrokenSystemError(f"{self.name}: {found['error']}. The end of its log:\n{end}")
        return found
