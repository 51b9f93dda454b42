"""Load the C++ kernels beside this file: those that were shipped for this kind of CPU, or compiled once a machine."""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch  # before the library: both then share the libgomp that comes with torch, and its threads

from trellis.native.targets import best_target, cpu_abilities, library_name

__all__ = ["BuildError", "Compiler", "available", "compile_library", "find_compiler", "library", "sources_digest"]

_log = logging.getLogger(__name__)
_FOLDER: Final = Path(__file__).parent
_FLAGS: Final = ("-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-Wno-psabi")
# Tried in turn: the first is unknown to Clang on arm64.
_THIS_CPU: Final = (("-march=native",), ("-mcpu=native",), ())
_PATIENCE: Final = 300.0  # seconds
_lock = threading.Lock()


class BuildError(RuntimeError):
    """The kernels could not be compiled; says why."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: the words that start it, and what it says of its version."""

    command: tuple[str, ...]
    version: str


def available() -> bool:
    """Whether the kernels can be used here; the first call compiles them."""
    return _loaded() is not None


def library() -> ctypes.CDLL:
    """The kernels; raises BuildError where there are none."""
    loaded = _loaded()
    if loaded is None:
        raise BuildError("The native kernels are switched off or could not be compiled; the log says why.")
    return loaded


def _loaded() -> ctypes.CDLL | None:
    with _lock:
        return _load_once()


@functools.cache
def _load_once() -> ctypes.CDLL | None:
    if os.environ.get("TRELLIS_NATIVE", "1") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(_shipped_file(os.environ) or _compiled_file(os.environ)))
    except (BuildError, OSError) as error:
        _log.warning("No native kernels, PyTorch's own operations serve instead (slower): %s", error)
        return None
    _log.debug("Native kernels loaded beside torch %s", torch.__version__)
    return loaded


def _shipped_file(environment: Mapping[str, str]) -> Path | None:
    """The library in the folder that TRELLIS_NATIVE_LIBRARIES names, as ship.py left it there; None where it has none."""
    folder = environment.get("TRELLIS_NATIVE_LIBRARIES")
    target = best_target(platform.machine(), cpu_abilities()) if folder else None
    if not folder or target is None:
        return None
    path = Path(folder, library_name(target, sources_digest()))
    if not path.is_file():
        _log.warning("%s has no kernels for %s and these sources; compiling them", folder, target.name)
        return None
    for one in (path.parent, path):
        _refuse_if_others_may_write(one, "TRELLIS_NATIVE_LIBRARIES")
    return path


def _compiled_file(environment: Mapping[str, str]) -> Path:
    return _library_file(find_compiler(environment), _cache_folder(environment))


def find_compiler(environment: Mapping[str, str]) -> Compiler:
    """The one that CXX names, or the first of g++, c++ and clang++; raises BuildError where there is none."""
    named = environment.get("CXX", "").split()
    for command in (named,) if named else (["g++"], ["c++"], ["clang++"]):
        if shutil.which(command[0], path=environment.get("PATH")) is not None:
            return Compiler(tuple(command), _version_of(command))
    raise BuildError(f"There is no C++ compiler ({' '.join(named) or 'g++, c++ or clang++'}) on the PATH.")


def _version_of(command: list[str]) -> str:
    return _run([*command, "--version"]).stdout


def _run(command: list[str], seconds: float | None = _PATIENCE) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except subprocess.CalledProcessError as error:
        said = "\n".join(error.stderr.splitlines()[-10:])
        raise BuildError(f"{' '.join(command)} failed:\n{said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not be run: {error}") from error


def _library_file(compiler: Compiler, folder: Path) -> Path:
    target = folder / f"{_digest(compiler)}.so"
    if target.exists():
        return target
    with _only_one(folder / f"{target.name}.lock"):
        if not target.exists():
            _compile_for_this_cpu(compiler, target)
    return target


def _compile_for_this_cpu(compiler: Compiler, target: Path) -> None:
    for flags in _THIS_CPU[:-1]:
        with contextlib.suppress(BuildError):
            compile_library(compiler, flags, target)
            return
    compile_library(compiler, _THIS_CPU[-1], target)


def compile_library(
    compiler: Compiler, flags: tuple[str, ...], target: Path, *, seconds: float | None = _PATIENCE
) -> None:
    """Compile all kernels into `target`, which appears whole or not at all; raises BuildError."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch, target.name)
        sources = [str(source) for source in sorted(_FOLDER.glob("*.cpp"))]
        _run([*compiler.command, *_FLAGS, *flags, *sources, "-o", str(made)], seconds)
        made.replace(target)


def _digest(compiler: Compiler) -> str:
    """Changes with all that the machine code depends on."""
    return hashlib.sha256(repr((compiler, _THIS_CPU, _cpu(), sources_digest())).encode()).hexdigest()[:32]


@functools.cache
def sources_digest() -> str:
    """Changes with the kernels' sources, and with how they are compiled for whatever CPU."""
    digest = hashlib.sha256(repr(_FLAGS).encode())
    for source in sorted((*_FOLDER.glob("*.cpp"), *_FOLDER.glob("*.h"))):
        digest.update(f"\0{source.name}\0".encode() + source.read_bytes())
    return digest.hexdigest()


def _cpu() -> tuple[str, ...]:
    """The CPU's model and abilities: a cache folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor()]
    told = ("model", "flags", "features", "cpu ")
    return (
        platform.machine(),
        *(line for line in lines if line.lower().startswith(told) and "mhz" not in line.lower()),
    )


def _cache_folder(environment: Mapping[str, str]) -> Path:
    """Ours alone, for what lies in it is run; raises BuildError if others may write there."""
    root = environment.get("TRELLIS_CACHE") or Path.home() / ".cache" / "trellis"
    folder = Path(root, "native")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise BuildError(f"No folder to keep the kernels in ({error}); set TRELLIS_CACHE to one.") from error
    if folder.stat().st_uid != os.geteuid():
        raise BuildError(f"{folder} is not yours; set TRELLIS_CACHE to a folder of your own.")
    _refuse_if_others_may_write(folder, "TRELLIS_CACHE")
    return folder


def _refuse_if_others_may_write(path: Path, variable: str) -> None:
    about = path.stat()
    if about.st_uid not in {0, os.geteuid()} or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"Others may write to {path}; set {variable} to a folder of your own.")


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Of several processes that start together one compiles; the others wait for what it makes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
