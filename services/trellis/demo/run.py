"""The demonstration from its first to its last line."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from trellis.demo import scenes
from trellis.demo.orders import ORDERS
from trellis.demo.routing import ROUTING
from trellis.local.layout import DataDir
from trellis.local.ports import free_ports
from trellis.local.stack import Stack, StackSettings


def demo(console: Console, data_dir: Path | None, summary: Path | None) -> None:
    """Run the demonstration in `data_dir`, or in a folder that vanishes; raises DemoError or StackError."""
    began = time.monotonic()
    with ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trellis-demo-")))
        console.rule("Trellis on this machine", align="left")
        endpoint, admin_key = stack.enter_context(_platform(DataDir(folder.absolute()), console))
        actors = scenes.enter(endpoint, admin_key, (ROUTING, ORDERS))
        for actor in actors:
            stack.callback(actor.client.close)
        console.rule("Two tenants upload their data", align="left")
        for actor in actors:
            scenes.upload(actor, console)
        console.rule("Each tunes an adapter of the same base model", align="left")
        scenes.tune(actors, console)
        console.rule("Before and after, on lines that were held out", align="left")
        console.print(scenes.table(actors))
        console.rule("Both adapters answer, on one copy of the base", align="left")
        scenes.call_both(actors, console)
        console.rule("A tenant tries the other's adapter", align="left")
        scenes.intrude(actors[0], actors[1], console)
        if summary is not None:
            found = {"tenants": scenes.summary(actors), "seconds": round(time.monotonic() - began, 1)}
            summary.write_text(json.dumps(found, indent=2) + "\n")
        console.rule(f"Done in {time.monotonic() - began:.0f} s", align="left")
        console.print(_next(data_dir), highlight=False, markup=False)


@contextmanager
def _platform(data: DataDir, console: Console) -> Iterator[tuple[str, str]]:
    grpc_port, http_port = free_ports(2)
    settings = StackSettings(data, grpc_port, http_port, len(os.sched_getaffinity(0)))
    stack = Stack(settings, say=lambda line: console.print(f"  {line}", style="dim", highlight=False, markup=False))
    with stack.serving():
        yield f"localhost:{grpc_port}", data.admin_key.read_text().strip()


def _next(data_dir: Path | None) -> str:
    folder = data_dir or Path("trellis-data")
    again = "has both adapters" if data_dir else "is yours to fill"
    return f"""What to do next:
  trellis up --data-dir {folder} --detach     # this {again}
  export TRELLIS_API_KEY=$(cat {folder}/admin.key)
  trellis tenants create my-team
  trellis --tenant my-team datasets upload my-lines.jsonl --dataset mine
  trellis --tenant my-team jobs create --dataset mine --alias mine --deploy --epochs 5 --learning-rate 5e-3 --watch
  trellis --tenant my-team generate --model mine "…"
"""
