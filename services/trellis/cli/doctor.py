"""`trellis doctor`: whether this machine can run Trellis, and what to do where it can't."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from trellis.cli.up import data_dir_option, data_of
from trellis.local.layout import DataDir
from trellis.local.ports import is_free
from trellis.local.stack import read_state

_GIB = 1024**3
_EXTRAS = {
    "server": (
        "sqlalchemy",
        "alembic",
        "aiosqlite",
        "fsspec",
        "structlog",
        "prometheus_client",
        "tokenizers",
        "jinja2",
    ),
    "ray": ("ray",),
    "train": ("torch", "transformers", "peft", "safetensors"),
    "serve": ("torch", "transformers", "safetensors"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    finding: str
    advice: str = ""
    """What to do, where it is not well."""


@click.command()
@data_dir_option
@click.option("--grpc-port", default=50051, show_default=True)
@click.option("--http-port", default=8000, show_default=True)
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(data_dir: Path | None, grpc_port: int, http_port: int, output: str) -> None:
    """Check whether this machine can run Trellis; ends with code 1 if something is not well."""
    checks = list(examine(data_of(data_dir), grpc_port, http_port))
    if output == "json":
        click.echo(json.dumps([asdict(check) for check in checks]))
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.ok else 'BAD '} {check.name:<12} {check.finding}")
            if check.advice:
                click.echo(f"     {'':<12} {check.advice}")
    if not all(check.ok for check in checks):
        raise click.exceptions.Exit(1)


def examine(data: DataDir, grpc_port: int, http_port: int) -> Iterator[Check]:
    """Look at everything that `trellis up` needs."""
    yield _python()
    for extra, modules in _EXTRAS.items():
        yield _packages(extra, modules)
    yield _accelerators()
    yield _memory()
    yield _shared_memory()
    yield _folder(data)
    if read_state(data) is None:
        yield _port("API", grpc_port, "--grpc-port")
        yield _port("health", http_port, "--http-port")
    else:
        yield Check("ports", ok=True, finding=f"Trellis runs over {data.root}; its ports are its own.")


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, version, "" if ok else "Install Python 3.11 or newer.")


def _packages(extra: str, modules: tuple[str, ...]) -> Check:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            extra, ok=False, finding=f"{', '.join(missing)} missing.", advice=f"pip install 'trellis[{extra}]'"
        )
    return Check(extra, ok=True, finding=", ".join(f"{name} {_version(name)}" for name in modules))


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _accelerators() -> Check:
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    cpus = len(os.sched_getaffinity(0))
    return Check("compute", ok=True, finding=f"{cpus} CPUs, {len(devices)} GPUs")


def _memory() -> Check:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    ok = free >= 4 * _GIB
    return Check("memory", ok, f"{free / _GIB:.1f} GiB free", "" if ok else "Ray, a job and an engine want 4 GiB.")


def _shared_memory() -> Check:
    free = shutil.disk_usage("/dev/shm").free  # noqa: S108  where Ray keeps its objects, not a file of ours
    ok = free >= _GIB // 4
    advice = "" if ok else "Give the container more, such as docker run --shm-size=1g; Ray is slow on disk."
    return Check("shm", ok, f"{free / _GIB:.1f} GiB free", advice)


def _folder(data: DataDir) -> Check:
    parent = next(path for path in (data.root, *data.root.parents) if path.exists())
    if not os.access(parent, os.W_OK):
        return Check("data", ok=False, finding=f"{data.root} can't be written.", advice="Choose another --data-dir.")
    free = shutil.disk_usage(parent).free
    ok = free >= 5 * _GIB
    return Check(
        "data", ok, f"{data.root}, {free / _GIB:.0f} GiB free", "" if ok else "Datasets and adapters want room."
    )


def _port(name: str, port: int, flag: str) -> Check:
    if is_free(port):
        return Check(name, ok=True, finding=f"port {port} is free")
    return Check(name, ok=False, finding=f"port {port} is in use.", advice=f"Choose another one with {flag}.")
