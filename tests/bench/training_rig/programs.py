"""The peers, as processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.serving_rig.system import BrokenSystemError, System
from tests.bench.training_rig.crowd import Crowd, Ready
from tests.bench.training_rig.tenant import Task, Tuned
from trellis.local.ray_head import QUIET_THREADS

_ROOT: Final = Path(__file__).parents[3]
_TRAINER: Final = "tests.bench.peers.training_trainer"
_TRL: Final = "tests.bench.peers.training_trl"
_OWN_THREADS: Final = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""What a shell may have set for a machine with other work on it; here each library gets its own defaults."""


def environment(*, passive: bool) -> Mapping[str, str]:
    """A peer's, in which threads wait as its libraries have it, or sleep."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OWN_THREADS}
    own = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    return {**inherited, **own, **(QUIET_THREADS if passive else {})}


@dataclass(frozen=True, slots=True)
class Programs:
    """A program for each tenant, one after another, as on a machine with one device."""

    python: Path
    module: str
    base: Path
    out: Path
    threads: int
    passive: bool
    most: int = 8
    """No more are started: of a larger crowd's time, that of its first ones is a part."""

    @classmethod
    def of_trainer(cls, base: Path, out: Path, threads: int, *, passive: bool) -> "Programs":
        """peft and transformers' Trainer."""
        return cls(Path(sys.executable), _TRAINER, base, out / "trainer", threads, passive)

    @classmethod
    def of_trl(cls, python: Path, base: Path, out: Path, threads: int, *, passive: bool) -> "Programs":
        """TRL's SFTTrainer, with the Python that has it."""
        return cls(python, _TRL, base, out / "trl", threads, passive)

    def __call__(self, crowd: Crowd) -> Ready:
        """Tune them all. Raises BrokenSystemError."""
        tasks = self._tasks(crowd)
        began = time.monotonic()
        tuned = [self._end(task, self._start(task)) for task in tasks]
        share = len(crowd.tenants) / len(tasks)
        return Ready((time.monotonic() - began) * share, tuned, crowd.recipe.epochs * crowd.tokens)

    def at_once(self, crowd: Crowd) -> Sequence[Tuned]:
        """All at the same time, for their memory; raises BrokenSystemError."""
        tasks = self._tasks(crowd)
        started = [self._start(task) for task in tasks]
        return [self._end(task, process) for task, process in zip(tasks, started, strict=True)]

    def _tasks(self, crowd: Crowd) -> list[Task]:
        return crowd.tasks(self.base, self.out, self.threads)[: self.most]

    def _start(self, task: Task) -> subprocess.Popen[bytes]:
        file = task.write(Path(task.out) / "task.json")
        command = [str(self.python), "-m", self.module, "--task", str(file)]
        with self._log(task).open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=_ROOT,
                env=environment(passive=self.passive),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, task: Task, process: subprocess.Popen[bytes]) -> Tuned:
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        if code:
            end = "\n".join(self._log(task).read_text(errors="replace").splitlines()[-12:])
            raise BrokenSystemError(f"{self.module} ended with code {code}. The end of its log:\n{end}")
        found = json.loads((Path(task.out) / "result.json").read_text())
        return Tuned(found["losses"], found["seconds"])

    @staticmethod
    def _log(task: Task) -> Path:
        return Path(task.out) / "log"


@dataclass(frozen=True, slots=True)
class WarmProcess:
    """One process of peft and Trainer that has loaded the base, and tunes one adapter after another."""

    system: System
    base: Path
    out: Path
    threads: int
    most: int = 8
    """No more tenants are tuned; a larger crowd's time is reckoned from theirs."""

    @classmethod
    def start(cls, base: Path, out: Path, logs: Path, threads: int, *, passive: bool) -> "WarmProcess":
        """It is still to be entered as `system`."""
        command = [sys.executable, "-m", _TRAINER, "--warm", str(base), "--threads", str(threads)]
        quiet = dict(QUIET_THREADS) if passive else {}
        log = logs / "warm-process.log"
        return cls(System("Trainer in a warm process", command, quiet, log), base, out / "warm", threads)

    def __call__(self, crowd: Crowd) -> Ready:
        """Tune them all. Raises BrokenSystemError."""
        tasks = crowd.tasks(self.base, self.out, self.threads)[: self.most]
        began = time.monotonic()
        tuned = [Tuned(**self.system.ask("run", **task.to_json())) for task in tasks]
        share = len(crowd.tenants) / len(tasks)
        return Ready((time.monotonic() - began) * share, tuned, crowd.recipe.epochs * crowd.tokens)
