"""Is serving many adapters on one base as fast as a GPU's memory lets it be? An 8B-shaped model with random weights.

Trellis's engine is a process of its own; each mix of adapters (`adapters32_of_128`: 128 requests at once, 32 adapters
among them) is measured beside the base alone in the same round, 1000 registered adapters beside 8, and the time to first
token with twice as many adapters as slots beside that with as many. Without a GPU nothing is measured, but for `--tiny`,
which shows on a CPU that the script works.
"""

import argparse
import datetime as dt
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from tests.bench.gpu_rig.parts import Gpu, Paired
from tests.bench.gpu_rig.plot import draw_shares
from tests.bench.gpu_rig.sizes import FULL, ON_A_CPU, QUICK, Sizes, allowed_share
from tests.bench.report import Machine, Row, Sheet, cache_option, output_options, say, versions
from tests.bench.serving_rig.finding import Finding
from tests.bench.serving_rig.fleet import Fleet, Model
from tests.bench.serving_rig.shapes import write_adapters, write_base

PARTS: Final = ("mixes", "slots")
_DISTRIBUTIONS: Final = ("trellis", "torch", "transformers")


def main() -> None:
    """Measure what is asked for, and publish it."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    if not (given.tiny or torch.cuda.is_available()):
        print("no CUDA device: nothing measured")
        return
    sizes, device = (ON_A_CPU, "cpu") if given.tiny else (QUICK if given.quick else FULL, "cuda")
    machine, today = Machine.this(), dt.datetime.now(dt.UTC).date().isoformat()
    model = _model(sizes, device, given.cache)
    pairs: list[Paired] = []
    findings: list[Finding] = []
    with Fleet(given.cache / "logs", given.threads, passive=False, vllm=None) as fleet:
        gpu = Gpu(sizes, fleet, model, device, given.rounds, say)
        if "mixes" in given.part:
            pairs = gpu.mixes()
        if "slots" in given.part:
            findings = gpu.slots()
        rows = list(_rows(gpu, pairs, findings))
    sheet = Sheet("serving_gpu", today, given.quick or given.tiny, machine, _versions(), _facts(sizes, given), rows)
    sheet.publish(given.json)
    if given.json is not None and pairs:
        allowed = {mix.name: allowed_share(sizes.shape, sizes.lengths, mix) for mix in sizes.mixes}
        given.json.with_suffix(".svg").write_text(draw_shares(pairs, allowed), encoding="utf-8")


def _model(sizes: Sizes, device: str, cache: Path) -> Model:
    say(f"writing {sizes.shape.name} and {sizes.files} adapters, if they are not there")
    with torch.device(device):  # drawing 8 billion numbers takes minutes on a CPU
        base = write_base(sizes.shape, cache / sizes.shape.name)
    adapters = cache / f"{sizes.shape.name}-adapters"
    write_adapters(sizes.shape, adapters, sizes.files)
    if device == "cuda":
        torch.cuda.empty_cache()
    return Model(base, adapters, sizes.shape.plain_tokens)


def _rows(gpu: Gpu, pairs: Sequence[Paired], findings: Sequence[Finding]) -> Iterator[Row]:
    for pair in pairs:
        yield from pair.rows()
    if pairs:
        yield from gpu.limits()
    for finding in findings:
        found = finding.to_json()
        peer = str(found["peer"]) or "as many adapters as slots"
        yield Row(finding.claim.name, float(found["value"]), finding.claim.unit, peer, float(found["peer_value"]))


def _versions() -> dict[str, str]:
    found = versions(_DISTRIBUTIONS)
    return found | {"cuda": str(torch.version.cuda)} if torch.cuda.is_available() else found


def _facts(sizes: Sizes, given: argparse.Namespace) -> dict[str, Any]:
    shape, lengths = sizes.shape, sizes.lengths
    layers = f"hidden {shape.hidden}, {shape.layers} layers, vocabulary {shape.vocabulary}"
    return {
        "base": f"{shape.name} (random weights; {layers})",
        "adapters": f"rank {shape.rank} on all seven linears",
        "precision": "bf16",
        "requests": f"{lengths.prompt[0]} + {lengths.answer[0]} tokens",
        "slots": f"{sizes.most_adapters}, and {sizes.slots} for twice as many adapters",
        "rounds": given.rounds,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving_gpu", description=__doc__)
    output_options(parser)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU: shows that the script works")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be given again")
    parser.add_argument("--rounds", type=int, metavar="N", help="5, or 1 with --quick or --tiny")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the engine")
    cache_option(parser, "models and adapters")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick or given.tiny else 5)
    given.part = given.part or list(PARTS)
    return given


if __name__ == "__main__":
    main()
