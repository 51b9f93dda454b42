"""Are many tenants' adapters trained together as fast as they could be? Against peft with transformers' Trainer, and TRL.

Parts (`--part`) can be measured apart, and each replaces its own numbers in the JSON alone: `steps` (the shared step beside plain
PEFT's, in one process), `ready` (eight tenants from submit to adapters that are ready), `grid` (other numbers of tenants, long
lines, mixed adapters), `memory`, and `distributed` (two DeepSpeed workers beside one).
"""

import argparse
import datetime as dt
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import trellis
from tests.bench.peers.own_venv import PeerMissingError
from tests.bench.report import Machine, cache_option, output_options, say, versions
from tests.bench.serving_rig.shapes import REFERENCE, SMALL, Shape, write_base
from tests.bench.serving_rig.system import System
from tests.bench.training_rig import ready
from tests.bench.training_rig.crowd import Crowd, System as Tuner
from tests.bench.training_rig.distributed import workers
from tests.bench.training_rig.finding import Finding, Point
from tests.bench.training_rig.memory import peaks
from tests.bench.training_rig.plot import draw
from tests.bench.training_rig.programs import Programs, WarmProcess
from tests.bench.training_rig.sheet import Book, PartSheet, write
from tests.bench.training_rig.steps import Case, Steps
from tests.bench.training_rig.tenant import Mix, Recipe
from tests.bench.training_rig.texts import LONG, SHORT, Lengths
from tests.bench.training_rig.trl_venv import find_trl
from trellis.local.ray_head import QUIET_THREADS
from trellis.tokens import ChatTokenizer

PARTS: Final = ("steps", "ready", "grid", "memory", "distributed")
_BASE: Final = Path(trellis.__file__).parent / "base_models/trellis-tiny"
_DISTRIBUTIONS: Final = ("trellis", "torch", "transformers", "peft", "ray", "deepspeed")
_EVERY: Final = (1, 2, 8, 32)
_TENANTS: Final = 8
_STARTED_IN_GRID: Final = 2
"""Tenants that a peer tunes of each crowd; one takes as long as the other, so that the rest is reckoned."""
_PASSIVE: Final = """On a machine with nothing else to do, the threads of the peers wait as their libraries chose. With other work on
the machine spinning threads take the cores from each other, and --passive is better for all. The platform's own always
sleep, as they do in `trellis up`."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    shape: Shape
    """Of the base whose steps are compared."""
    cases: Sequence[Case]
    steps: int
    recipe: Recipe
    tenants: int
    lines: int
    """Short ones of each tenant; of long ones there are a quarter."""
    grid: Sequence[tuple[int, Lengths, Mix]]

    def crowd_lines(self, lengths: Lengths) -> int:
        """Of each tenant."""
        return self.lines if lengths is SHORT else max(self.recipe.batch_size, self.lines // 4)


FULL: Final = Sizes(
    REFERENCE,
    (
        *(Case(tenants, tokens, "same") for tenants in _EVERY for tokens in (16, 64, 256)),
        *(Case(tenants, tokens, "mixed") for tenants, tokens in ((8, 16), (8, 256), (32, 16))),
    ),
    2,
    Recipe(),
    _TENANTS,
    100,
    (
        *((tenants, lengths, "same") for tenants in _EVERY for lengths in (SHORT, LONG)),
        *((tenants, SHORT, "mixed") for tenants in (8, 32)),
    ),
)
QUICK: Final = Sizes(
    SMALL,
    (Case(2, 16, "mixed"), Case(8, 16, "same"), Case(8, 256, "same")),
    2,
    Recipe(epochs=1),
    2,
    20,
    ((1, SHORT, "same"), (2, LONG, "mixed")),
)


@dataclass
class Run:
    """One run: what it is asked for, and where it works."""

    sizes: Sizes
    given: argparse.Namespace
    scratch: Path
    machine: Machine
    trl: Path | None
    left_out: list[str]
    book: Book
    _tokenizer: ChatTokenizer = field(default_factory=lambda: ChatTokenizer.load(_BASE))

    def measure(self) -> None:
        """All parts that are asked for; one that fails leaves the others their numbers."""
        measures = {
            "steps": self._steps,
            "ready": self._ready,
            "grid": self._grid,
            "memory": self._memory,
            "distributed": self._distributed,
        }
        for part in self.given.part:
            say(f"— {part}")
            findings: Sequence[Finding] = ()
            points: Sequence[Point] = ()
            missing = list(self.left_out) if part in {"ready", "grid"} else []
            try:
                findings, points = measures[part]()
            except Exception as error:  # noqa: BLE001  half an hour of other numbers is worth more than this part
                traceback.print_exception(error)
                missing.append(f"`{part}` failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            self.book.add(self._sheet(part, findings, points, missing))
            write(self.book, self.given.json, draw(self.book.parts))

    def _steps(self) -> tuple[Sequence[Finding], Sequence[Point]]:
        with self._bare_trainer() as system:
            steps = Steps(system, self.sizes.cases, self.sizes.steps, say)
            points, findings = steps.run(self.given.rounds)
        return findings, points

    def _ready(self) -> tuple[Sequence[Finding], Sequence[Point]]:
        crowd = self._crowd(self.sizes.tenants, SHORT, "same")
        with self._peers() as peers:
            rounds = ready.Rounds(peers, say, self.given.threads, self.given.rounds)
            found = rounds.run(crowd, self._crowd(1, SHORT, "same"))
        return list(ready.headline(found, crowd, rounds.first_steps)), list(ready.points("ready", found, crowd))

    def _grid(self) -> tuple[Sequence[Finding], Sequence[Point]]:
        crowds = [self._crowd(tenants, lengths, mix) for tenants, lengths, mix in self.sizes.grid]
        with self._peers(most=_STARTED_IN_GRID) as peers:
            some = {name: peer for name, peer in peers.items() if name != ready.TRL}
            return (), list(ready.grid(crowds, some, self.given.grid_rounds, say, self.given.threads))

    def _memory(self) -> tuple[Sequence[Finding], Sequence[Point]]:
        with self._bare_trainer() as system:
            found = [float(value) for value in system.ask("bytes", tenants=self.sizes.tenants)["bytes"]]
        note = (
            "by the sizes of the tensors that hold a job's weights, gradients and moments; rank 8 on all seven linears"
        )
        weights = Finding.of("bytes_per_lora_parameter", [max(found)], note=note)
        alone = Programs.of_trainer(_BASE, self.scratch, 1, passive=True)
        crowd = self._crowd(self.sizes.tenants, SHORT, "same")
        whole, points = peaks(crowd, alone, self.given.grid_rounds, say, self.given.threads)
        return [weights, whole], points

    def _distributed(self) -> tuple[Sequence[Finding], Sequence[Point]]:
        return list(workers(self._crowd(1, SHORT, "same"), self.given.grid_rounds, say)), ()

    @contextmanager
    def _bare_trainer(self) -> Iterator[System]:
        shape = self.sizes.shape
        base = write_base(shape, self.given.cache / shape.name)
        command = [sys.executable, "-m", "tests.bench.training_rig.bare_trainer"]
        command += ["--base", str(base), "--threads", str(self.given.threads)]
        quiet = QUIET_THREADS if self.given.passive else {}
        with System("the bare trainer", command, quiet, self._logs / "bare-trainer.log") as system:
            yield system

    @contextmanager
    def _peers(self, most: int = _TENANTS) -> Iterator[Mapping[str, Tuner]]:
        """Of a crowd they tune so many at the most."""
        threads, passive = self.given.threads, self.given.passive
        warm = WarmProcess.start(_BASE, self.scratch, self._logs, threads, passive=passive)
        programs = Programs.of_trainer(_BASE, self.scratch, threads, passive=passive)
        found: dict[str, Tuner] = {
            ready.PROCESSES: replace(programs, most=most),
            ready.PROCESS: replace(warm, most=most),
        }
        if self.trl is not None:
            found[ready.TRL] = Programs.of_trl(self.trl, _BASE, self.scratch, threads, passive=passive)
        with ExitStack() as stack:
            stack.enter_context(warm.system)
            yield found

    def _crowd(self, tenants: int, lengths: Lengths, mix: Mix) -> Crowd:
        lines, recipe = self.sizes.crowd_lines(lengths), self.sizes.recipe
        folder = self.scratch / "lines"
        return Crowd.draw(
            folder, tenants, mix, lengths, lines, recipe, lambda text: len(self._tokenizer.encode_text(text))
        )

    @property
    def _logs(self) -> Path:
        folder: Path = self.given.cache / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _sheet(
        self, part: str, findings: Sequence[Finding], points: Sequence[Point], missing: Sequence[str]
    ) -> PartSheet:
        today = dt.datetime.now(dt.UTC).date().isoformat()
        command = f".venv/bin/python -m tests.bench.training {' '.join(sys.argv[1:])}".rstrip()
        facts = _facts(part, self.sizes, self.given)
        found = versions(_DISTRIBUTIONS)
        return PartSheet(part, today, self.given.quick, self.machine, found, facts, command, findings, points, missing)


def main() -> None:
    """Measure what is asked for, and publish it."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    machine, left_out = Machine.this(), list[str]()
    trl: Path | None = None
    if {"ready", "grid"} & set(given.part):
        try:
            trl = None if given.no_trl else find_trl(given.trl_venv, given.cache, say)
        except PeerMissingError as error:
            left_out.append(f"TRL was not measured: {error}")
    book = Book() if given.json is None else Book.read(given.json)
    with tempfile.TemporaryDirectory(prefix="trellis-bench-") as scratch:
        Run(QUICK if given.quick else FULL, given, Path(scratch), machine, trl, left_out, book).measure()
    book.print()


def _facts(part: str, sizes: Sizes, given: argparse.Namespace) -> dict[str, Any]:
    threads = f"{given.threads}, {'sleeping' if given.passive else 'as each library has it'} while they wait"
    if part == "steps":
        shape = sizes.shape
        layers = f"hidden {shape.hidden}, {shape.layers} layers, vocabulary {shape.vocabulary}"
        return {
            "base": f"{shape.name} (random weights; {layers})",
            "adapters": "rank 8 on all seven linears, or ranks 4 to 32 on four sets of them",
            "precision": "fp32",
            "threads": threads,
            "rounds": f"{given.rounds} of {sizes.steps} steps",
        }
    recipe = sizes.recipe
    return {
        "base": _BASE.name,
        "lines": f"{sizes.lines} short ones (16 to 40 tokens) or {sizes.crowd_lines(LONG)} long ones (256) a tenant",
        "recipe": f"{recipe.epochs} epochs, batches of {recipe.batch_size}, AdamW at {recipe.learning_rate:g} to 0, fp32",
        "threads": threads,
        "peers": "all tenants" if part != "grid" else f"{_STARTED_IN_GRID} tenants of each crowd, the others reckoned",
        "rounds": given.rounds if part == "ready" else given.grid_rounds,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training", description=__doc__, epilog=_PASSIVE)
    output_options(parser)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be given again")
    parser.add_argument("--rounds", type=int, metavar="N", help="3, or 1 with --quick")
    parser.add_argument("--grid-rounds", type=int, default=1, metavar="N", help="of the other parts; 1")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each peer")
    parser.add_argument("--passive", action="store_true", help="threads that wait sleep, as with --quick: see below")
    cache_option(parser, "models and TRL's environment")
    parser.add_argument("--trl-venv", type=Path, metavar="DIR", help="a virtual environment that has TRL")
    parser.add_argument("--no-trl", action="store_true", help="leave TRL out")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 3)
    if given.quick:
        given.passive = True
        given.no_trl = given.no_trl or given.trl_venv is None
        given.part = given.part or ["steps", "ready"]
    given.part = given.part or list(PARTS)
    return given


if __name__ == "__main__":
    main()
