"""`trellis admin simulate`, as its users run it."""

import json
import subprocess
import sys
from pathlib import Path

SMALL = ("--jobs=25", "--tenants=3", "--accelerators=8")


def simulated(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "trellis.cli.main", "admin", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_a_made_up_queue_is_recorded_drawn_and_replayed(tmp_path: Path) -> None:
    recorded, picture = tmp_path / "queue.jsonl", tmp_path / "queue.svg"
    done = simulated(*SMALL, f"--record={recorded}", f"--plot={picture}", "--no-quotas")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("jobs            25 of 3 tenants on 8 accelerators\n")
    assert picture.read_text().startswith("<svg")
    replayed = simulated(f"--trace={recorded}", "--format", "json")
    assert replayed.returncode == 0
    assert (json.loads(replayed.stdout)["jobs"], json.loads(replayed.stdout)["unfinished"]) == (25, 0)


def test_a_file_that_is_no_trace_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    done = simulated(f"--trace={tmp_path / 'bad.jsonl'}")
    assert done.returncode == 2
    assert f"Error: {tmp_path / 'bad.jsonl'} can't be replayed. Line 1 is no line of a trace" in done.stderr
    assert simulated("--trace=/none").returncode == 2
