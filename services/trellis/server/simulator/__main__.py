"""`python -m trellis.server.simulator`: what `trellis admin simulate` runs."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trellis.server.simulator.plot import draw
from trellis.server.simulator.report import report_of
from trellis.server.simulator.simulation import Simulation, SimulationOptions
from trellis.server.simulator.synthetic import Mix, synthetic_trace
from trellis.server.simulator.table import table_of
from trellis.server.simulator.trace import Trace, TraceError, read_trace, write_trace


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the report, and return the exit code: 0, or 1 where a job never ended, or 2 for a bad trace."""
    given = _parser().parse_args(arguments)
    try:
        trace = _trace(given)
    except (TraceError, OSError) as error:
        print(f"Error: {given.trace} can't be replayed. {error}", file=sys.stderr)  # noqa: T201  a program's answer
        return 2
    if given.record:
        write_trace(trace, given.record)
    options = SimulationOptions(round=given.round)
    record = Simulation(trace, options, time.perf_counter, _progress(given.progress)).run()
    report = report_of(record)
    if given.plot:
        given.plot.write_text(draw(record, report), encoding="utf-8")
    print(json.dumps(report.to_json(), indent=2) if given.format == "json" else table_of(report))  # noqa: T201
    return 1 if report.unfinished else 0


def _trace(given: argparse.Namespace) -> Trace:
    if given.trace:
        return read_trace(given.trace)
    return synthetic_trace(
        Mix(given.jobs, given.tenants, given.accelerators, given.seed, load=given.load, quotas=given.quotas)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trellis admin simulate", description=__doc__)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--accelerators", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load", type=float, default=1.2)
    parser.add_argument("--quotas", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--round", type=float, default=120.0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--progress", action="store_true")
    return parser


def _progress(shown: bool) -> Callable[[float], None]:
    """Parts of a hundred as lines on standard error, for whoever shows a bar."""
    last = -1

    def say(part: float) -> None:
        nonlocal last
        if shown and (percent := int(100 * part)) > last:
            last = percent
            print(f"progress {percent}", file=sys.stderr, flush=True)  # noqa: T201

    return say


if __name__ == "__main__":
    sys.exit(main())
