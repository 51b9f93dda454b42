"""What does one server do by itself, again and again, on an installation of up to a thousand accelerators?

Each control loop is run over the rows of an installation at work, on a PostgreSQL that writes to disk. A loop's load is the
time of its round over the time from one round to the next: the part of one core, and of the loop that answers calls too,
that it takes. The peer of each size is the smallest one: what grows faster than the installation is the next bottleneck.
"""

import argparse
import asyncio
import datetime as dt
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests.bench.report import Machine, Row, Sheet, output_options, versions
from tests.bench.scale_rig.fleet import Fleet, FleetSize, fleet
from tests.bench.scale_rig.relay import measure_relay
from tests.bench.scale_rig.reports import report_seconds
from tests.postgres import PostgresServer, find_programs
from trellis.server.control.loop import ControlLoop
from trellis.serving.routing import rank, standing

SIZES: Final = (FleetSize(10, 1_000, 100), FleetSize(100, 10_000, 1_000), FleetSize(1_000, 100_000, 10_000))
QUICK: Final = (FleetSize(4, 20, 10, tenants=5, bases=2), FleetSize(8, 40, 20, tenants=5, bases=2))
EXPECTED: Final = {
    "deploy": "the first bottleneck: it reads every deployed adapter each second, so 10 µs a row of Python makes 1 to 3 s at "
    "100,000",
    "admit": "a quarter of a second for the decision at 10,000 queued, and as much again to read the queue",
    "watch": "below 100 ms: attempts on trainers are read in batches of a thousand",
    "router": "1,000 replicas are ranked in some 2 ms a call: a proxy does 500 calls a second at most",
}
"""Written before the first run."""
_DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "autovacuum": "on"}


def main() -> None:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    output_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    programs = find_programs()
    if programs is None:
        sys.exit("PostgreSQL's server programs are not installed.")
    postgres = PostgresServer(programs, _DURABLE)
    postgres.start()
    try:
        sheet = asyncio.run(measure(postgres, 2 if given.quick else given.rounds, quick=given.quick))
    finally:
        postgres.stop()
    sheet.publish(given.json)


async def measure(postgres: PostgresServer, rounds: int, *, quick: bool) -> Sheet:
    """A sheet with a row for each loop and size."""
    sizes = QUICK if quick else SIZES
    date = dt.datetime.now(dt.UTC).date().isoformat()
    settings = {"sizes": [str(size) for size in sizes], "rounds": rounds, "each": "the median of the rounds"}
    sheet = Sheet("scale", date, quick, Machine.this(), versions(["trellis", "SQLAlchemy", "psycopg"]), settings)
    first: dict[str, float] = {}
    for size in sizes:
        _say(f"— {size}")
        found = await _of(postgres, size, rounds)
        for name, (value, unit) in found.items():
            peer = f"{sizes[0].accelerators} accelerators" if first and name in first else ""
            label = f"{name}, {size.accelerators} accelerators"
            sheet.rows.append(Row(label, value, unit, peer, first.get(name) if peer else None))
        first = first or {name: value for name, (value, _) in found.items()}
    await _relay(postgres, sheet, quick=quick)
    return sheet


async def _relay(postgres: PostgresServer, sheet: Sheet, *, quick: bool) -> None:
    """What calls of models take of a server, which hands on every message of every answer."""
    _say("— the relay")
    with tempfile.TemporaryDirectory() as folder:
        relay = await measure_relay(postgres, Path(folder), 4 if quick else 64, 5 if quick else 50)
    sheet.rows.append(Row("a lone model call with one message, CPU of the server", 1e3 * relay.lone_call, "ms"))
    sheet.rows.append(Row("one of many such calls at once, CPU of the server", 1e3 * relay.call, "ms"))
    sheet.rows.append(Row("each further message of an answer, CPU of the server", 1e6 * relay.message, "µs"))


async def _of(postgres: PostgresServer, size: FleetSize, rounds: int) -> dict[str, tuple[float, str]]:
    found: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with fleet(postgres, Path(folder), size) as installation:
            load = 0.0
            for loop in installation.loops:
                seconds = await _seconds(loop.once, rounds)
                found[f"{loop.name}, ms a round"] = (1e3 * seconds, "ms")
                load += _load(loop, seconds)
                _say(f"  {loop.name}: {1e3 * seconds:.1f} ms every {loop.pause_after(seconds):.3g} s")
            found["all loops, part of a core"] = (load, "cores")
            found["a report of a job, ms"] = (1e3 * await report_seconds(installation, size.running, rounds), "ms")
            found["deploy after a change, ms a round"] = (1e3 * await _changed(installation, rounds), "ms")
    found["route a call, µs"] = (1e6 * _routing(size.accelerators - size.trainers), "µs")
    return found


def _load(loop: ControlLoop, seconds: float) -> float:
    return seconds / (seconds + loop.pause_after(seconds))


async def _seconds(work: Callable[[], Awaitable[object]], rounds: int) -> float:
    """The median over rounds, after two that are not counted: they find what there is to do."""
    times = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        await work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


async def _changed(installation: Fleet, rounds: int) -> float:
    deploy = next(loop for loop in installation.loops if loop.name == "deploy")
    await deploy.once()
    times = []
    for _ in range(rounds):
        await installation.touch_an_adapter()
        began = time.perf_counter()
        await deploy.once()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _routing(replicas: int) -> float:
    """Seconds to choose among the replicas of one base, when all of them serve it and each holds 64 adapters."""
    told = [{"bank": [f"{64 * replica + n:016x}" for n in range(64)], "memory": []} for replica in range(replicas)]
    calls, began = 200, time.perf_counter()
    for call in range(calls):
        adapter = f"{call:016x}"
        standings = [standing(f"replica-{n}", n % 4, adapter, told[n]) for n in range(replicas)]
        rank(standings, adapter, 16)
    return (time.perf_counter() - began) / calls


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
