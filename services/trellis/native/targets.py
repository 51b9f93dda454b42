"""The kinds of CPU that kernels are compiled for ahead, where the machine that runs them will have no compiler."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_AVX2: Final = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"})
_AVX512: Final = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_BF16: Final = _AVX512 | {"avx512_bf16"}
_AMX: Final = _BF16 | {"amx_tile", "amx_bf16"}
_V4: Final = "-march=x86-64-v4"


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of CPU: the compiler's words for it, and what Linux must say that a CPU can for it to be one."""

    name: str
    machine: str
    """As `uname -m` says."""
    flags: tuple[str, ...]
    needs: frozenset[str] = frozenset()


# From the plainest to the most able of each machine.
TARGETS: Final[Sequence[Target]] = (
    Target("x86-64", "x86_64", ("-march=x86-64",)),
    Target("x86-64-v3", "x86_64", ("-march=x86-64-v3",), _AVX2),
    Target("x86-64-v4", "x86_64", (_V4,), _AVX512),
    Target("x86-64-v4-bf16", "x86_64", (_V4, "-mavx512bf16"), _BF16),
    Target("x86-64-v4-amx", "x86_64", (_V4, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"), _AMX),
    Target("armv8", "aarch64", ("-march=armv8-a",)),
    Target("armv8.2", "aarch64", ("-march=armv8.2-a+fp16+dotprod",), frozenset({"asimdhp", "asimddp"})),
)


def targets_of(machine: str) -> list[Target]:
    """Those of a machine, the plainest first; none where it is not known."""
    return [target for target in TARGETS if target.machine == machine]


def best_target(machine: str, abilities: Iterable[str]) -> Target | None:
    """The most able one that a CPU with these abilities runs; None where the machine is not known."""
    able = frozenset(abilities)
    return next((target for target in reversed(targets_of(machine)) if target.needs <= able), None)


def cpu_abilities(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What Linux says that the first CPU can; nothing where it does not say."""
    try:
        lines = cpuinfo.read_text().split("\n\n")[0].splitlines()
    except OSError:
        return frozenset()
    told = [line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))]
    return frozenset(" ".join(told).split())


def library_name(target: Target, sources_digest: str) -> str:
    """The file of a target's kernels; another one when the sources change, so that stale ones are never loaded."""
    return f"{target.name}-{sources_digest[:16]}.so"
