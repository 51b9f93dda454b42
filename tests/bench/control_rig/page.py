"""The page of docs/benchmarks."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.control_rig.claims import EXPECTED
from tests.bench.control_rig.load import Timing
from tests.bench.report import Sheet

_HEAD = """# The control plane: calls a second, and hundreds of streams

Asyncio clients, each of which calls again when it has its answer, against server processes on a PostgreSQL that commits to
the disk. The clients, the servers and PostgreSQL share the machine's cores. Every row is the median of rounds in which each call was
measured in turn with its peer. The peer of reads is the upper bound of this language: the same gRPC server with a handler
that gives the same bytes and does nothing.

## Expected
Written before the first full run.
"""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long calls took."""

    name: str
    at_once: int
    timing: Timing


def page(sheet: Sheet, latencies: Mapping[str, Latency], command: str) -> str:
    """The page; what came out is for whoever reads the numbers to write."""
    lines = [_HEAD, *(f"- `{name}`: {why}." for name, why in EXPECTED.items())]
    lines += ["", "## Measured", "```sh", command, "```", *_about(sheet), ""]
    lines += ["|  | Trellis | unit | peer | peer's | ratio |", "|---|---:|---|---|---:|---:|"]
    for row in sheet.rows:
        name, *rest = row.cells()
        lines.append(f"| `{name}` | {' | '.join(rest)} |")
    lines += ["", "| call | at once | calls/s | p50 ms | p99 ms |", "|---|---:|---:|---:|---:|"]
    for one in latencies.values():
        timing = one.timing
        numbers = f"{timing.calls_per_second:.0f} | {timing.p50_ms:.1f} | {timing.p99_ms:.1f}"
        lines.append(f"| {one.name} | {one.at_once} | {numbers} |")
    return "\n".join([*lines, "", "All of it is in [control-plane.json](control-plane.json).", ""])


def _about(sheet: Sheet) -> list[str]:
    quick = ", quick: too small to judge by" if sheet.quick else ""
    return [
        f"{sheet.bench}, {sheet.date}{quick}. {sheet.machine}.",
        ", ".join(f"{name} {version}" for name, version in sheet.versions.items()) + ".",
        ", ".join(f"{name}: {value}" for name, value in sheet.settings.items()) + ".",
    ]
