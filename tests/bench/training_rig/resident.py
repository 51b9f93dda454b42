"""How much memory a process and all that it started have at the most."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAUSE: Final = 0.5
_PROC: Final = Path("/proc")


@dataclass
class Peak:
    """The greatest sum so far, in bytes, and of how many processes it was."""

    bytes: int = 0
    processes: int = 0

    def see(self, found: Mapping[int, int]) -> None:
        """Resident bytes by process at one time."""
        if sum(found.values()) > self.bytes:
            self.bytes, self.processes = sum(found.values()), len(found)

    @property
    def mib(self) -> float:
        """In MiB."""
        return self.bytes / 2**20


@contextmanager
def watched(root: int | None = None, *, itself: bool = False) -> Iterator[Peak]:
    """Look twice a second, while the block runs, at all that process `root` (this one) has started."""
    peak, done, root = Peak(), threading.Event(), root or os.getpid()

    def look() -> None:
        while True:
            peak.see({pid: resident(pid) for pid in family(root) if itself or pid != root})
            if done.wait(_PAUSE):
                return

    thread = threading.Thread(target=look, name="memory")
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def family(root: int) -> list[int]:
    """A process and its children, their children and so on."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdecimal() and (parent := _parent(folder)) is not None:
            children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def resident(pid: int) -> int:
    """Bytes in memory, of pages that several processes share only its share; 0 for one that has ended."""
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _parent(folder: Path) -> int | None:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
