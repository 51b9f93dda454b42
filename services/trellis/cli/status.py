"""`trellis status`: what runs over a data folder."""

import json
import os
from pathlib import Path
from typing import Any

import click

from trellis.cli.up import data_dir_option, data_of
from trellis.local.layout import DataDir
from trellis.local.processes import marked_pids
from trellis.local.stack import answers, read_state


@click.command()
@data_dir_option
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(data_dir: Path | None, output: str) -> None:
    """Show what runs over a folder; ends with code 1 if it does not serve."""
    found = look(data_of(data_dir))
    if output == "json":
        click.echo(json.dumps(found))
    else:
        for name, value in found.items():
            click.echo(f"{name.replace('_', ' '):<14}{value if value is not None else '-'}")
    if found["state"] != "SERVING":
        raise click.exceptions.Exit(1)


def look(data: DataDir) -> dict[str, Any]:
    """The state (DOWN, STARTING, NOT_READY or SERVING), ports, processes and bytes of a folder's Trellis."""
    running = read_state(data)
    grpc_port = running.get("grpc_port") if running else None
    http_port = running.get("http_port") if running else None
    return {
        "state": _state(running),
        "data_dir": str(data.root),
        "endpoint": f"localhost:{grpc_port}" if grpc_port else None,
        "health": f"http://localhost:{http_port}/readyz" if http_port else None,
        "pid": running.get("pid") if running else None,
        "server_pid": running.get("server_pid") if running else None,
        "ray_pid": running.get("ray_pid") if running else None,
        "processes": len(marked_pids(data.marker)),
        "stored_bytes": _size(data.root),
    }


def _state(running: dict[str, Any] | None) -> str:
    if running is None:
        return "DOWN"
    if not running.get("http_port"):
        return "STARTING"
    return "SERVING" if answers(f"http://127.0.0.1:{running['http_port']}/readyz") else "NOT_READY"


def _size(root: Path) -> int:
    total = 0
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            total += path.lstat().st_size if path.exists() else 0
    return total
