"""TRL in a virtual environment of its own, which sees our torch, transformers and peft: the same versions on both sides."""

import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench.peers.own_venv import find_venv, python_of, run_in

REQUIREMENT: Final = "trl>=1.0"


def find_trl(given: Path | None, cache: Path, say: Callable[[str], None]) -> Path:
    """The Python of the environment that is given, or of the one in `cache`, made if need be. Raises PeerMissingError."""
    return python_of(find_venv(given, cache / "trl", _make, "trl.trainer.sft_trainer", say))


def _make(folder: Path) -> None:
    ours = sysconfig.get_paths()["purelib"]
    venv.create(folder, with_pip=False)
    theirs = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (theirs / "ours.pth").write_text(f"{ours}\n")
    run_in(folder, "-m", "pip", "install", "--quiet", REQUIREMENT)
