"""`trellis up`: everything on this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import click

from trellis.local.layout import DataDir, default_data_dir
from trellis.local.stack import Stack, StackError, StackSettings, read_state

_DETACH_SECONDS = 240.0
_POLL_SECONDS = 0.2

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    envvar="TRELLIS_DATA_DIR",
    help="The folder that holds everything.  [default: ~/.local/share/trellis]",
)


def data_of(path: Path | None) -> DataDir:
    """The data folder that a command was given, or the default one."""
    return DataDir((path or default_data_dir()).expanduser().absolute())


@click.command()
@data_dir_option
@click.option("--grpc-port", default=50051, show_default=True, help="Port of the API, on the loopback interface.")
@click.option("--http-port", default=8000, show_default=True, help="Port of health and metrics.")
@click.option("--cpus", type=click.IntRange(1), default=None, help="CPUs for jobs.  [default: all]")
@click.option("--detach", is_flag=True, help="Return when it serves, and let it run.")
def up(data_dir: Path | None, grpc_port: int, http_port: int, cpus: int | None, detach: bool) -> None:
    """Run Trellis on this machine: Ray, the server, and the engines.

    A second `up` over the same folder goes on where the first one ended.
    """
    data = data_of(data_dir)
    settings = StackSettings(data, grpc_port, http_port, cpus or len(os.sched_getaffinity(0)))
    try:
        if detach:
            _detach(settings)
        else:
            _run(settings)
    except StackError as error:
        raise click.ClickException(str(error)) from error


def _run(settings: StackSettings) -> None:
    stack = Stack(settings, say=lambda line: click.echo(line, err=True))

    def stop(_number: int, _frame: FrameType | None) -> None:
        stack.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    stack.run(ready=lambda: click.echo(welcome(settings)))


def _detach(settings: StackSettings) -> None:
    data = settings.data
    if read_state(data) is not None:
        raise StackError(f"Trellis already runs over {data.root}. `trellis status` shows it; `trellis down` ends it.")
    data.create()
    log = data.logs / "up.log"
    flags = [f"--data-dir={data.root}", f"--grpc-port={settings.grpc_port}", f"--http-port={settings.http_port}"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "trellis.cli.main", "up", *flags, f"--cpus={settings.cpus}"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _wait_until_ready(process, data, log)
    click.echo(welcome(settings))


def _wait_until_ready(process: subprocess.Popen[bytes], data: DataDir, log: Path) -> None:
    deadline = time.monotonic() + _DETACH_SECONDS
    shown = 0
    while not _serves(process.pid, data):
        text = log.read_text(errors="replace")
        click.echo(text[shown:], err=True, nl=False)
        shown = len(text)
        if process.poll() is not None:
            raise StackError(f"It ended with code {process.returncode} before it served; see {data.logs}.")
        if time.monotonic() > deadline:
            process.terminate()
            raise StackError(f"It did not serve within {_DETACH_SECONDS:.0f} s; see {data.logs}.")
        time.sleep(_POLL_SECONDS)


def _serves(pid: int, data: DataDir) -> bool:
    """Whether this process has said that it serves; a file that a killed one left behind does not count."""
    state = read_state(data)
    return state is not None and state.get("pid") == pid and "grpc_port" in state


def welcome(settings: StackSettings) -> str:
    """Where it serves, and what to type next."""
    data = settings.data
    return f"""Trellis serves.
  API        localhost:{settings.grpc_port}
  health     http://localhost:{settings.http_port}/readyz, metrics at /metrics
  admin key  {data.admin_key}
  logs       {data.logs}

Next:
  export TRELLIS_ENDPOINT=localhost:{settings.grpc_port} TRELLIS_API_KEY=$(cat {data.admin_key})
  trellis tenants create acme
  trellis --tenant acme datasets upload FILE.jsonl --dataset mine
  trellis --tenant acme jobs create --dataset mine --alias mine --deploy --epochs 5 --learning-rate 5e-3 --watch"""
