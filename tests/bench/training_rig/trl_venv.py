"""TRL in a virtual environment of its own, which sees our torch, transformers and peft: the same versions on both sides."""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

REQUIREMENT: Final = "trl>=1.0"
_INSTALL_SECONDS: Final = 600


class TrlMissingError(RuntimeError):
    """TRL can't be had; `str()` says why."""


def find_trl(given: Path | None, cache: Path, say: Callable[[str], None]) -> Path:
    """The Python of the environment that is given, or of the one in `cache`, made if need be. Raises TrlMissingError."""
    folder = given or cache / "trl"
    python = folder / "bin/python"
    if not python.exists():
        if given is not None:
            raise TrlMissingError(f"There is no virtual environment in {given}.")
        say(f"Installing {REQUIREMENT} into {folder} …")
        _make(folder)
    _run(python, "-c", "import trl.trainer.sft_trainer")
    return python


def _make(folder: Path) -> None:
    ours = sysconfig.get_paths()["purelib"]
    venv.create(folder, with_pip=False)
    theirs = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (theirs / "ours.pth").write_text(f"{ours}\n")
    _run(folder / "bin/python", "-m", "pip", "install", "--quiet", REQUIREMENT)


def _run(python: Path, *arguments: str) -> None:
    command = [str(python), *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TrlMissingError(f"`{' '.join(arguments)}` did not run: {error}.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise TrlMissingError(f"`{' '.join(arguments)}` failed: {lines[-1]}")
