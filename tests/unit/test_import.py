"""`import trellis` is for users' programs: it stays quick, and brings nothing that runs a platform."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch", "transformers", "peft", "deepspeed", "accelerate", "ray", "numpy", "pyarrow", "sqlalchemy", "alembic",
    "fsspec", "s3fs", "kubernetes", "aiohttp", "tokenizers", "jinja2", "rich", "click",
}  # fmt: skip

# Counts what an import brings, and its cost beside that of gRPC, which no client can do without.
PROBE = """
import json, sys, time
started = time.process_time()
import grpc, grpc.aio
grpc_seconds = time.process_time() - started
started = time.process_time()
import {module}
seconds = time.process_time() - started
roots = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps({{"roots": roots, "seconds": seconds, "grpc_seconds": grpc_seconds}}))
"""


def probe(module: str) -> dict[str, object]:
    command = [sys.executable, "-c", PROBE.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_trellis_brings_nothing_heavy() -> None:
    assert HEAVY.isdisjoint(probe("trellis")["roots"])


def test_importing_the_cli_brings_nothing_heavy() -> None:
    brought = set(probe("trellis.cli.main")["roots"])
    assert (HEAVY - {"rich", "click"}).isdisjoint(brought)


def test_importing_trellis_costs_little_beside_grpc() -> None:
    """CPU time of the process, the best of three: a busy machine must not decide."""
    best = min((probe("trellis") for _ in range(3)), key=lambda p: p["seconds"])
    assert best["seconds"] < max(0.5, 5 * best["grpc_seconds"])


@pytest.mark.parametrize("module", ["trellis", "trellis_jobs"])
def test_a_package_says_that_it_is_typed(module: str) -> None:
    code = f"import importlib.resources as r; print(r.files('{module}').joinpath('py.typed').is_file())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
