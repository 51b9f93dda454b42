"""Is training many tenants on one base as fast as a GPU lets it be? An 8B-shaped model with random weights, in bf16.

In one process the shared step alternates with plain PEFT's, one tenant after another, and with one in mLoRA's style (all tenants
in one padded batch, each adapter on its slice of the rows), from the same adapters on the same tokens. Beside each ratio stands
what an H200's arithmetic would give. Without a GPU nothing is measured, but for `--tiny`, which shows on a CPU that the script
works.
"""

import argparse
import datetime as dt
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM

from tests.bench.report import Machine, Row, Sheet, cache_option, output_options, say, versions
from tests.bench.serving_rig.shapes import write_base
from tests.bench.training_rig.gpu import FULL, ON_A_CPU, OURS, PEERS, QUICK, GpuSizes, Load, expected
from tests.bench.training_rig.mlora_style import MloraStyle
from tests.bench.training_rig.sequential import Lines, Sequential
from tests.bench.training_rig.shared_step import SharedStep
from tests.bench.training_rig.tenant import Hyperparameters, Tenant
from trellis.bases import read_base
from trellis_jobs.device import Device, choose_device

_DISTRIBUTIONS: Final = ("trellis", "torch", "transformers", "peft")
_NAMES: Final = {"sequential": "PEFT, one tenant after another", "mlora": "one padded batch, in mLoRA's style"}
_TOLD: Final = Hyperparameters(1e-4)
_BARS: Final = "tenants8_mixed_over_mlora ≥ 1.5, tenants8_full_over_sequential ≥ 0.95"
Step = Callable[[Sequence[Lines]], list[float]]


@dataclass(frozen=True, slots=True)
class Sides:
    """The three ways, with the same adapters at the start."""

    steps: dict[str, Step]
    device: Device

    @classmethod
    def load(cls, sizes: GpuSizes, folder: Path, device: Device) -> "Sides":
        """Two bases: one for the shared step, which changes it, and one for both peers."""
        tenants = [Tenant(number, sizes.shape.rank, ()) for number in range(sizes.tenants)]
        base, taken = (_base(folder, device) for _ in range(2))
        rows = sum(tenant.rank for tenant in tenants)
        facts = read_base(str(folder))
        shared = SharedStep(taken, facts, device, sizes.tenants, rows, sizes.pass_tokens)
        plain = Sequential.of(base, tenants, _TOLD, device.autocast)
        weights = [one.weights() for one in plain.steps]
        shared.settle(tenants, weights, _TOLD)
        mlora = MloraStyle.of(base, tenants, weights, _TOLD, device.autocast)
        return cls({OURS: shared.step, "sequential": plain.step, "mlora": mlora.step}, device)

    def seconds(self, side: str, batches: Sequence[Sequence[Lines]]) -> tuple[float, list[float]]:
        """What so many steps take on one side, and the tenants' losses at the last."""
        # The shared step lays its lines out on the host; the peers' lie on the device.
        placed = batches if side == OURS else [[_on(self.device, lines) for lines in some] for some in batches]
        self._wait()
        began, losses = time.perf_counter(), list[float]()
        for some in placed:
            losses = self.steps[side](some)
        self._wait()
        return time.perf_counter() - began, losses

    def _wait(self) -> None:
        if self.device.target.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class Compared:
    """One load's rounds: seconds and last losses, by side."""

    load: Load
    tokens: list[int]
    """Of each round, without padding."""
    seconds: dict[str, list[float]]
    losses: dict[str, list[float]]

    def rows(self, sizes: GpuSizes) -> Iterator[Row]:
        """Rates of both, the median of the rounds' ratios, and what the arithmetic gives."""
        for peer in PEERS:
            ours, theirs = (statistics.median(map(_rate, self.tokens, self.seconds[side])) for side in (OURS, peer))
            name = f"tenants{sizes.tenants}_{self.load.name}_over_{peer}"
            ratios = [other / one for one, other in zip(self.seconds[OURS], self.seconds[peer], strict=True)]
            yield Row(f"{name}, rate", ours, "tok/s", _NAMES[peer], theirs)
            yield Row(f"{name}, median of the rounds", statistics.median(ratios), "x")
            yield Row(f"{name}, by an H200's arithmetic", expected(sizes, self.load, peer), "x")
            yield Row(f"{name}, losses apart at the most", self._apart(peer), "share")

    def _apart(self, peer: str) -> float:
        pairs = zip(self.losses[OURS], self.losses[peer], strict=True)
        return max(abs(one - other) / other for one, other in pairs)


def main() -> None:
    """Measure, and publish it."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not (given.tiny or torch.cuda.is_available()):
        print("no CUDA device: nothing measured")
        return
    # Lines of ever other lengths would leave pieces of memory that nothing fits into.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    sizes = ON_A_CPU if given.tiny else QUICK if given.quick else FULL
    device = choose_device("fp32" if given.tiny else "bf16")
    machine, today = Machine.this(), dt.datetime.now(dt.UTC).date().isoformat()
    rows = [row for found in measure(sizes, given.cache, device, given.rounds) for row in found.rows(sizes)]
    if device.target.type == "cuda":
        rows.append(Row("memory at the peak, all three sides", torch.cuda.max_memory_allocated() / 2**30, "GiB"))
    sheet = Sheet("training_gpu", today, given.quick or given.tiny, machine, _versions(), _facts(sizes, given), rows)
    sheet.publish(given.json)


def measure(sizes: GpuSizes, cache: Path, device: Device, rounds: int) -> Iterator[Compared]:
    """Each load, the sides taking turns in each round after one that warms up."""
    say(f"writing {sizes.shape.name}, if it is not there")
    with torch.device(device.target):  # drawing 8 billion numbers takes minutes on a CPU
        folder = write_base(sizes.shape, cache / sizes.shape.name)
    sides = Sides.load(sizes, folder, device)
    for load in sizes.loads:
        found = Compared(load, [], {side: [] for side in (OURS, *PEERS)}, {})
        for number in range(-1, rounds):
            count = sizes.steps if number >= 0 else 1
            drawn = [load.draw(f"{number} {step}", sizes.tenants, sizes.shape.plain_tokens) for step in range(count)]
            for side in (OURS, *PEERS):
                seconds, found.losses[side] = sides.seconds(side, drawn)
                if number >= 0:
                    found.seconds[side].append(seconds)
            if number >= 0:
                found.tokens.append(sum(ids_T.numel() - 1 for some in drawn for lines in some for ids_T in lines))
                say(
                    f"{load.name}, round {number + 1}: "
                    + ", ".join(f"{s} {found.seconds[s][-1]:.3f} s" for s in found.seconds)
                )
        yield found


def _base(folder: Path, device: Device) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=device.dtype)
    return model.to(device.target).requires_grad_(False)


def _on(device: Device, lines: Lines) -> Lines:
    return [ids_T.to(device.target) for ids_T in lines]


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds


def _versions() -> dict[str, str]:
    found = versions(_DISTRIBUTIONS)
    return found | {"cuda": str(torch.version.cuda)} if torch.cuda.is_available() else found


def _facts(sizes: GpuSizes, given: argparse.Namespace) -> dict[str, Any]:
    shape = sizes.shape
    layers = f"hidden {shape.hidden}, {shape.layers} layers, vocabulary {shape.vocabulary}"
    loads = ", ".join(f"{load.name}: {load.lines} lines of {load.low} to {load.high}" for load in sizes.loads)
    return {
        "base": f"{shape.name} (random weights; {layers})",
        "adapters": f"{sizes.tenants} of rank {shape.rank} on all seven linears",
        "precision": "fp32" if given.tiny else "bf16 products, fp32 adapters",
        "a tenant's step": loads,
        "rounds": f"{given.rounds} of {sizes.steps} steps",
        "bars": _BARS,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training_gpu", description=__doc__)
    output_options(parser)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU: shows that the script works")
    parser.add_argument("--rounds", type=int, metavar="N", help="5, or 1 with --quick or --tiny")
    cache_option(parser, "the model")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick or given.tiny else 5)
    return given


if __name__ == "__main__":
    main()
