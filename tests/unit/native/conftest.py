import ctypes
import fcntl
import functools
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
    """The kernels compiled for another CPU that this one can stand in for; once each, whoever of xdist's workers asks."""
    mine = tmp_path_factory.getbasetemp()
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "native"
    folder.mkdir(exist_ok=True)

    @functools.cache
    def compile_once(cpu: str) -> ctypes.CDLL:
        target = folder / f"{cpu}.so"
        with (folder / f"{cpu}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                build.compile_library(build.find_compiler(os.environ), PLAIN[cpu], target)
        return ctypes.CDLL(str(target))

    return compile_once


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiler in a hurry, as CXX: it leaves the code as it is, for tests of where the library comes from."""
    try:
        found = build.find_compiler(os.environ)
    except build.BuildError:
        pytest.skip("no C++ compiler here")
    path = tmp_path_factory.mktemp("compiler") / "c++"
    path.write_text(f'#!/bin/sh\nexec {" ".join(found.command)} "$@" -O0\n')
    path.chmod(0o755)
    return str(path)


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
