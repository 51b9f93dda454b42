"""Prometheus' own tool, which reads PromQL and plays rules; it comes in Debian's package `prometheus`."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml


def promtool(*arguments: str) -> str:
    """Run it; what it said. Skips the test where there is none, and fails it in CI."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is not installed: apt-get install --no-install-recommends prometheus")
        pytest.skip("promtool is not installed: apt-get install --no-install-recommends prometheus")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_expressions(expressions: Sequence[str]) -> None:
    """Have Prometheus read them all."""
    rules = [{"record": f"checked:{number}", "expr": expr} for number, expr in enumerate(expressions)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rules.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
        assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def play(folder: Path, rules: Sequence[Path], tests: Sequence[dict[str, Any]], interval: str) -> None:
    """Let time pass over series, and hold the alerts against what is expected."""
    path = folder / "tests.yaml"
    groups = [group["name"] for rule in rules for group in yaml.safe_load(rule.read_text())["groups"]]
    story = {
        "rule_files": [str(rule) for rule in rules],
        "evaluation_interval": interval,
        "group_eval_order": groups,
        "tests": list(tests),
    }
    path.write_text(yaml.safe_dump(story))
    promtool("test", "rules", str(path))
