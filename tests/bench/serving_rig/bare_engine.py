"""Trellis's own engine and nothing around it, as a process that is asked through a pipe."""

import argparse
import resource
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import torch

from tests.bench.serving_rig import pipe
from tests.bench.serving_rig.drive import Drive
from tests.bench.serving_rig.registry import register
from tests.bench.serving_rig.workload import Ask, Workload
from trellis.bases import read_base
from trellis.engine import (
    AdapterLoader,
    AdapterTiers,
    Engine,
    EngineLimits,
    Request,
    Runner,
    RunnerLimits,
    Sampling,
)
from trellis.native.threads import compute_alone
from trellis.objects import ObjectStore
from trellis.tokens import ChatTokenizer

_LOAD_THREADS: Final = 2  # as a replica has
_PAGE_BYTES: Final = resource.getpagesize()
_GREEDY: Final = Sampling(temperature=0.0)


class BareEngine:
    """The engine, stepped by hand; while all requests wait for adapters, it sleeps until a load has ended."""

    def __init__(self, given: argparse.Namespace) -> None:
        base = read_base(str(given.base))
        tokenizer = ChatTokenizer.load(base.path)
        limits = RunnerLimits(bank_rows=given.slots * given.rank, max_slots=given.slots, kv_bytes=given.kv_mib << 20)
        runner = Runner.load(base, limits, precision=given.precision, device=given.device)
        store = given.base.parent / f"{given.base.name}-objects"
        self._adapters = register(given.adapters, given.count, base.revision, tokenizer.digest, store)
        load = AdapterLoader(ObjectStore.open(str(store)), base, tokenizer.digest, runner.bank).load
        self._tiers = AdapterTiers(
            runner.bank, load, ThreadPoolExecutor(_LOAD_THREADS, initializer=compute_alone), given.host_mib << 20
        )
        engine_limits = EngineLimits(max_running=given.at_once, max_waiting=4096)
        self._engine = Engine(runner, tokenizer, runner.context_length, self._tiers, engine_limits, time.monotonic)
        self._news = threading.Event()
        self._engine.notify(self._news.set)

    def submit(self, number: int, ask: Ask) -> None:
        """Take this request on."""
        adapter = None if ask.adapter is None else self._adapters[ask.adapter]
        request = Request(
            str(number),
            ask.prompt_ids,
            adapter,
            tenant=ask.tenant,
            weight=ask.weight,
            sampling=_GREEDY,
            max_tokens=ask.answer_tokens,
        )
        self._engine.submit(request)

    def step(self) -> Iterable[tuple[int, int, bool]]:
        """Go on a little."""
        if not self._engine.can_step:
            self._news.wait()
        self._news.clear()
        for output in self._engine.step():
            if output.error is not None:
                raise output.error
            yield int(output.request_id), len(output.token_ids), output.is_last

    def cancel(self, number: int) -> None:
        """Drop this request, which is not complete."""
        self._engine.cancel(str(number))

    def usage(self) -> dict[str, Any]:
        """What it holds, when nothing runs."""
        usage = self._engine.usage
        return {
            "memory_mib": _resident_bytes() / 2**20,
            "blocks_used": usage.kv_blocks_used,
            "pins": usage.pins,
            "resident": len(usage.resident_digests),
            "in_host_memory": len(usage.host_digests),
        }


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def main() -> None:
    """Load, then answer what the pipe asks."""
    answers = pipe.claim_answers()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapters", type=Path)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kv-mib", type=int, default=1024)
    parser.add_argument("--host-mib", type=int, default=4096)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    engine = BareEngine(given)

    def run(asked: dict[str, Any]) -> dict[str, Any]:
        return Drive(engine, Workload.from_json(asked["workload"])).run().to_json()

    pipe.serve(answers, {"versions": {"torch": torch.__version__}}, {"run": run, "usage": lambda _: engine.usage()})


if __name__ == "__main__":
    main()
