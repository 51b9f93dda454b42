"""A virtual environment of a peer's own, which is found or made."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

_INSTALL_SECONDS: Final = 1800


class PeerMissingError(RuntimeError):
    """The peer can't be had; `str()` says why."""


def find_venv(
    given: Path | None, kept: Path, make: Callable[[Path], None], imports: str, say: Callable[[str], None]
) -> Path:
    """The folder that is given, or `kept`, which is made if need be; `imports` can be. Raises PeerMissingError."""
    folder = given or kept
    if not python_of(folder).exists():
        if given is not None:
            raise PeerMissingError(f"There is no virtual environment in {given}.")
        say(f"Installing into {folder} …")
        make(folder)
    run_in(folder, "-c", f"import {imports}")
    return folder


def python_of(folder: Path) -> Path:
    """The interpreter."""
    return folder / "bin/python"


def run_in(folder: Path, *arguments: str) -> None:
    """Run its interpreter. Raises PeerMissingError."""
    command = [str(python_of(folder)), *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissingError(f"`{' '.join(arguments)}` did not run: {error}.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise PeerMissingError(f"`{' '.join(arguments)}` failed: {lines[-1]}")
