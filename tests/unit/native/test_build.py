import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trellis.native import build

SCRIPT = """
import sys, trellis.native.build as build, torch
print(build.available())
print(sum("libgomp" in line and "r-xp" in line for line in open("/proc/self/maps")))
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "TRELLIS_CACHE": str(cache), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    said, complained = process.communicate(timeout=100)
    assert process.returncode == 0, complained
    return said, complained


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    try:
        build.find_compiler(os.environ)
    except build.BuildError:
        pytest.skip("no C++ compiler here")


def test_processes_that_start_together_share_one_library_and_torchs_threads(tmp_path: Path, hasty: str) -> None:
    for process in [start(tmp_path, CXX=hasty) for _ in range(3)]:
        assert finish(process) == ("True\n1\n", "")
    made = sorted(path.suffix for path in (tmp_path / "native").iterdir())
    assert made == [".lock", ".so"]
    assert stat.S_IMODE((tmp_path / "native").stat().st_mode) == 0o700


def test_switched_off(tmp_path: Path) -> None:
    assert finish(start(tmp_path, TRELLIS_NATIVE="0"))[0].startswith("False\n")
    assert not (tmp_path / "native").exists()


def test_without_a_compiler_one_warning_says_so(tmp_path: Path) -> None:
    said, complained = finish(start(tmp_path, CXX="no-such-compiler"))
    assert said.startswith("False\n")
    assert complained.count("There is no C++ compiler (no-such-compiler)") == 1


def test_what_the_compiler_said_is_in_the_warning(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo 1;; *) echo "lora.cpp:1: no room left" >&2; exit 1;; esac\n'
    )
    broken.chmod(0o755)
    said, complained = finish(start(tmp_path, CXX=str(broken)))
    assert said.startswith("False\n")
    assert complained.count("lora.cpp:1: no room left") == 1
    assert not list((tmp_path / "native").glob("*.so"))


def test_a_folder_where_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o777)
    said, complained = finish(start(tmp_path))
    assert said.startswith("False\n")
    assert "Others may write" in complained


def test_the_sources_are_packed_with_the_modules() -> None:
    folder = Path(build.__file__).parent
    assert {path.name for path in folder.glob("*.cpp")} >= {
        "attention.cpp",
        "cache_write.cpp",
        "layers.cpp",
        "lora.cpp",
    }
