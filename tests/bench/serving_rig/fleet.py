"""The systems: how each is started."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.vllm_venv import VllmVenv
from trellis.local.ray_head import QUIET_THREADS

TRELLIS: Final = "Trellis"
TRANSFORMERS: Final = "transformers"
MIXED: Final = "PEFT mixed"
SWITCHING: Final = "PEFT switching"
VLLM: Final = "vLLM-CPU"
VLLM_LORA: Final = "vLLM-CPU LoRA"
WAYS: Final[Mapping[str, str]] = {TRANSFORMERS: "base", MIXED: "mixed", SWITCHING: "switching"}


@dataclass(frozen=True, slots=True)
class Model:
    """A base and its adapters, as files."""

    base: Path
    adapters: Path
    tokens: range
    """Ids to draw prompts from; no special ones."""


@dataclass
class Fleet:
    """Starts systems, and ends all of them at the end of the block."""

    folder: Path
    threads: int
    passive: bool
    """Whether threads that wait sleep, for the sake of other work on the machine."""
    vllm: VllmVenv | None
    versions: dict[str, str] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End those that run."""
        self._open.close()

    def trellis(
        self, model: Model, name: str, options: Mapping[str, Any], environment: Mapping[str, str] = {}
    ) -> System:
        """Our engine; `options` are those of `bare_engine`."""
        command = [sys.executable, "-m", "tests.bench.serving_rig.bare_engine"]
        return self._start(name, command, model, {"threads": self.threads, **options}, environment)

    def transformers(self, name: str, model: Model, count: int) -> System:
        """One of WAYS."""
        given = {"way": WAYS[name], "threads": self.threads, "count": 0 if name == TRANSFORMERS else count}
        return self._start(name, [sys.executable, "-m", "tests.bench.peers.serving_transformers"], model, given)

    def vllm_cpu(self, name: str, model: Model, count: int, at_once: int) -> System:
        """vLLM, of base models alone when `count` is 0."""
        assert self.vllm is not None
        command = [str(self.vllm.python), "-m", "tests.bench.peers.serving_vllm"]
        given = {"count": count, "at-once": at_once}
        return self._start(name, command, model, given, self.vllm.environment(self.threads))

    def _start(
        self,
        name: str,
        command: list[str],
        model: Model,
        options: Mapping[str, Any],
        environment: Mapping[str, str] = {},
    ) -> System:
        given = {"base": model.base, "adapters": model.adapters, **options}
        command = [
            *command,
            *(text for key, value in given.items() for text in (f"--{key.replace('_', '-')}", str(value))),
        ]
        log = self.folder / f"{name.replace(' ', '-')}.log"
        quiet = QUIET_THREADS if self.passive else {}
        system = self._open.enter_context(System(name, command, {**quiet, **environment}, log))
        self.versions |= {key: version for key, version in system.versions.items() if key != "torch"}
        return system
