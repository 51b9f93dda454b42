"""Kernels that were compiled ahead, on a machine without a compiler and with nowhere to write."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from trellis.native.build import BuildError, compile_library, find_compiler, sources_digest
from trellis.native.ship import ship
from trellis.native.targets import TARGETS, Target, best_target, cpu_abilities, library_name, targets_of

SCRIPT = """
import torch
from trellis.native import build
print(build.available())
print([line.split()[-1] for line in open("/proc/self/maps") if "/shipped/" in line and "r-xp" in line])
"""
V3 = ["fma", "bmi1", "bmi2", "f16c", "abm", "movbe", "avx2"]
V4 = [*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]


def start(folder: Path, **more: str) -> tuple[str, str]:
    """What a process says that has no compiler, and a home that can't be written to."""
    environment = {**os.environ, "CXX": "no-such-compiler", "HOME": "/proc", "OMP_NUM_THREADS": "1"}
    environment.pop("TRELLIS_CACHE", None)
    environment.update({"TRELLIS_NATIVE_LIBRARIES": str(folder), **more})
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("machine", "abilities", "name"),
    [
        ("x86_64", ["sse2"], "x86-64"),
        ("x86_64", V3, "x86-64-v3"),
        ("x86_64", V3[1:], "x86-64"),
        ("x86_64", V4, "x86-64-v4"),
        ("x86_64", [*V4, "avx512_bf16"], "x86-64-v4-bf16"),
        ("x86_64", [*V4, "avx512_bf16", "amx_tile", "amx_bf16"], "x86-64-v4-amx"),
        ("x86_64", [*V4, "amx_tile", "amx_bf16"], "x86-64-v4"),
        ("aarch64", ["asimd", "asimdhp", "asimddp"], "armv8.2"),
        ("aarch64", ["asimd"], "armv8"),
    ],
)
def test_the_most_able_kind_that_the_cpu_is_of(machine: str, abilities: list[str], name: str) -> None:
    target = best_target(machine, abilities)
    assert target is not None
    assert target.name == name


def test_an_unknown_machine_has_none() -> None:
    assert best_target("riscv64", ["v"]) is None


def test_what_linux_says_of_the_first_cpu(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fma avx2\n\nprocessor\t: 1\nflags\t\t: amx_tile\n")
    assert cpu_abilities(tmp_path / "cpuinfo") == {"fma", "avx2"}
    assert cpu_abilities(tmp_path / "missing") == frozenset()


def test_every_kind_has_a_file_of_its_own() -> None:
    assert len({library_name(target, "0" * 64) for target in TARGETS}) == len(TARGETS)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, hasty: str) -> tuple[Path, Target]:
    """A folder with the plainest library, under the name of the one that this CPU takes."""
    target = best_target(platform.machine(), cpu_abilities())
    assert target is not None
    plainest = Target(target.name, target.machine, targets_of(target.machine)[0].flags)
    folder = tmp_path_factory.mktemp("image") / "shipped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", hasty)
        (made,) = ship(folder, [plainest])
    assert made.name == library_name(target, sources_digest())
    return folder, target


def test_without_a_compiler_the_shipped_ones_are_loaded(shipped: tuple[Path, Target]) -> None:
    folder, target = shipped
    said, complained = start(folder)
    assert said.startswith("True\n"), complained
    assert library_name(target, sources_digest()) in said
    assert complained == ""


def test_a_folder_without_them_is_told_and_pytorch_serves(tmp_path: Path) -> None:
    (tmp_path / "shipped").mkdir()
    said, complained = start(tmp_path / "shipped")
    assert said == "False\n[]\n"
    assert "has no kernels for" in complained
    assert "There is no C++ compiler" in complained


def test_what_others_may_have_written_is_not_loaded(shipped: tuple[Path, Target], tmp_path: Path) -> None:
    folder = tmp_path / "shipped"
    folder.mkdir()
    for library in shipped[0].iterdir():
        (folder / library.name).write_bytes(library.read_bytes())
    folder.chmod(0o777)
    said, complained = start(folder)
    assert said == "False\n[]\n"
    assert "Others may write to" in complained


def test_an_image_is_built_however_long_its_compiler_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that starts gives a compiler up after minutes; a busy or an emulated machine that builds an image must not."""
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\nsleep 0.5\nfor last; do :; done\necho >"$last"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setattr(compile_library, "__kwdefaults__", {"seconds": 0.1})
    with pytest.raises(BuildError, match="timed out"):
        compile_library(find_compiler(os.environ), (), tmp_path / "late.so")
    assert [path.exists() for path in ship(tmp_path / "shipped", TARGETS[:1])] == [True]
