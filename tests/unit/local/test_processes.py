"""Nothing is left behind, however badly it behaves."""

import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.local.patience import until

from trellis.local.processes import MARKER, Child, marked_pids, sweep

STAYS = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STAYS
# A grandchild in a session of its own, which is deaf too, and a parent that has gone.
LEAVES = (
    "import subprocess, sys; "
    f"subprocess.Popen([sys.executable, '-c', {DEAF!r}], start_new_session=True); print('gone', flush=True)"
)


Start = Callable[..., Child]


@pytest.fixture
def marker() -> str:
    return uuid.uuid4().hex[:16]


@pytest.fixture
def child(marker: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a program of Python with the marker in its environment, or with another one."""
    started: list[Child] = []

    def start(code: str, name: str = "child", marker: str = marker) -> Child:
        made = Child(name, [sys.executable, "-c", code], {**os.environ, MARKER: marker}, tmp_path / f"{name}.log")
        made.start()
        started.append(made)
        return made

    yield start
    sweep(marker, grace=0.0)
    for each in started:
        each.stop(0.0)


def printed(process: Child, text: str, count: int = 1) -> None:
    until(lambda: process.last_lines().count(text) >= count, f"{text!r} in {process.log}")


def test_a_child_says_how_it_ended_and_what_it_printed(child: Start, marker: str, tmp_path: Path) -> None:
    process = Child("never", ["true"], {}, tmp_path / "never.log")
    assert (process.pid, process.exit_code(), process.last_lines()) == (None, None, "")
    process.stop(1.0)
    process = child("import sys; print(1); print(2); sys.exit(7)")
    until(lambda: process.exit_code() is not None)
    assert process.exit_code() == 7
    assert process.last_lines(1) == "2"
    process.start()
    until(lambda: process.exit_code() is not None)
    assert process.last_lines() == "1\n2\n1\n2", "the log of an earlier start is kept"


def test_a_child_stops_when_it_is_asked_to(child: Start, marker: str, tmp_path: Path) -> None:
    process = child(STAYS)
    printed(process, "up")
    process.stop(grace=20.0)
    assert process.exit_code() == -signal.SIGTERM


def test_a_deaf_child_is_killed_with_its_session(child: Start, marker: str, tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); " + DEAF
    process = child(code)
    printed(process, "up", 2)
    assert len(marked_pids(marker)) == 2
    process.stop(grace=0.1)
    assert process.exit_code() == -signal.SIGKILL
    until(lambda: marked_pids(marker) == [])


def test_a_deaf_grandchild_in_another_session_is_swept(child: Start, marker: str, tmp_path: Path) -> None:
    process = child(LEAVES)
    until(lambda: process.exit_code() == 0)
    printed(process, "up")
    assert len(marked_pids(marker)) == 1
    assert sweep(marker, grace=0.1) == 1
    assert marked_pids(marker) == []
    assert sweep(marker) == 0


def test_only_the_marker_s_own_processes_are_swept(child: Start, marker: str, tmp_path: Path) -> None:
    stranger = child(STAYS, "stranger", marker + "0")
    mine = child(STAYS, "mine")
    printed(stranger, "up")
    printed(mine, "up")
    assert sweep(marker) == 1
    assert stranger.exit_code() is None


def test_one_child_s_processes_can_be_swept_alone(child: Start, marker: str, tmp_path: Path) -> None:
    leaves, stays = child(LEAVES, "leaves"), child(STAYS, "stays")
    printed(leaves, "up")
    printed(stays, "up")
    assert sweep(marker, grace=0.1, part="leaves") == 1
    assert marked_pids(marker) == [stays.pid]


def test_a_grandchild_whose_environment_says_nothing_any_more_counts_with_its_parent(
    child: Start, marker: str, tmp_path: Path
) -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}], env={{}}); " + STAYS
    parent, other = child(code, "parent"), child(STAYS, "other")
    printed(parent, "up", 2)
    printed(other, "up")
    both = marked_pids(marker, "parent")
    assert len(both) == 2
    assert sorted(marked_pids(marker)) == sorted([*both, other.pid])
    assert marked_pids(marker, "other") == [other.pid]
    os.kill(next(pid for pid in both if pid != parent.pid), signal.SIGKILL)
    assert parent.exit_code() is None
    until(lambda: marked_pids(marker, "parent") == [parent.pid])  # what is dead and not yet buried is nobody
