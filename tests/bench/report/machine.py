"""What the measurements were made on, and with what."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, without its name; `load` is that of the last minute before the benchmark started anything."""

    processor: str
    cores: int
    memory_gib: float
    gpu: str
    system: str
    load: float

    @classmethod
    def this(cls) -> Self:
        """The one that this runs on."""
        return cls(
            processor=processor_of(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            gpu=_gpu(),
            system=f"{platform.system()} {platform.machine()}",
            load=round(os.getloadavg()[0], 1),
        )

    def __str__(self) -> str:
        gpu = self.gpu or "no GPU"
        return f"{self.cores} cores of {self.processor}, {self.memory_gib} GiB, {gpu}; load {self.load} at the start"


def processor_of(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo, or the architecture where it has none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def versions(distributions: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of installed distributions; raises PackageNotFoundError."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in distributions}


def _gpu() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return ", ".join(done.stdout.splitlines()) if done.returncode == 0 else ""
