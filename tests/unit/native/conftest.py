import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from trellis.native import build

PLAIN: dict[str, tuple[str, ...]] = {"plain": ()}
if platform.machine() == "x86_64":
    flags = Path("/proc/cpuinfo").read_text().split("\nflags", 1)[1].split("\n", 1)[0].split()
    if {"avx2", "fma"} <= set(flags):
        PLAIN["avx2"] = ("-mavx2", "-mfma")
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= set(flags):
        PLAIN["avx512"] = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")


@pytest.fixture(scope="session")
def compile_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ctypes.CDLL]:
    """The kernels compiled for another CPU that this one can stand in for; once each."""
    made: dict[str, ctypes.CDLL] = {}

    def compile_once(cpu: str) -> ctypes.CDLL:
        if cpu not in made:
            target = tmp_path_factory.mktemp("native") / f"{cpu}.so"
            build.compile_library(build.find_compiler(os.environ), PLAIN[cpu], target)
            made[cpu] = ctypes.CDLL(str(target))
        return made[cpu]

    return compile_once


@pytest.fixture(params=["native", *PLAIN])
def kernels(
    request: pytest.FixtureRequest, compile_for: Callable[[str], ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Lets the given modules use the kernels as compiled for this CPU and, test by test, for lesser ones."""

    def use(*modules: object) -> None:
        for module in modules:
            kernel = module._kernel  # type: ignore[attr-defined]
            if request.param != "native":
                monkeypatch.setattr(module, "library", lambda: compile_for(request.param))
            kernel.cache_clear()
            request.addfinalizer(kernel.cache_clear)

    if not build.available():
        pytest.skip("no C++ compiler here")
    return use


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
