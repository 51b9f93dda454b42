"""Answers as one makes them with transformers alone, or with peft on it, in static batches; imports nothing of Trellis.

One way (`--way`) a process: `base` is `generate`; `mixed` is peft's `adapter_names`, each row of a batch with its own
adapter; `switching` takes one adapter's requests after another's with `set_adapter`.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.bench.serving_rig import pipe
from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.workload import Ask, Workload

_PAD = 0
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Batches:
    """One base, perhaps with adapters, that answers a batch at a time."""

    def __init__(self, way: str, base: Path, adapters: Sequence[Path], precision: str) -> None:
        self._way = way
        self._model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=_DTYPES[precision]).eval()
        self._adapters = adapters
        self._loaded = 0

    def run(self, workload: Workload) -> Timing:
        """Answer all requests, `at_once` of them in a batch; adapters that were not called before are loaded first."""
        self._load(max((ask.adapter + 1 for ask in workload.asks if ask.adapter is not None), default=0))
        count, tokens = len(workload.asks), sum(ask.answer_tokens for ask in workload.asks)
        timing = Timing(tokens=tokens, sent=[0.0] * count, ended=[-1.0] * count)
        start = time.perf_counter()
        for numbers in self._batches(workload):
            self._answer([workload.asks[number] for number in numbers])
            for number in numbers:
                timing.ended[number] = time.perf_counter() - start
        timing.seconds = time.perf_counter() - start
        return timing

    def _load(self, count: int) -> None:
        """Have at least so many adapters: peft takes more than a second for each."""
        for number in range(self._loaded, count):
            options: dict[str, Any] = {"adapter_name": f"a{number}", "autocast_adapter_dtype": False}
            if number == 0:
                self._model = PeftModel.from_pretrained(self._model, str(self._adapters[0]), **options)
            else:
                self._model.load_adapter(str(self._adapters[number]), **options)
            self._model.eval()
        self._loaded = max(self._loaded, count)

    def _batches(self, workload: Workload) -> Iterator[list[int]]:
        numbers = list(range(len(workload.asks)))
        for start in range(0, len(numbers), workload.at_once):
            batch = numbers[start : start + workload.at_once]
            if self._way != "switching":
                yield batch
                continue
            adapters = [workload.asks[number].adapter for number in batch]
            for adapter in dict.fromkeys(adapters):
                yield [number for number in batch if workload.asks[number].adapter == adapter]

    @torch.inference_mode()
    def _answer(self, asks: Sequence[Ask]) -> None:
        """All rows go on until the longest answer is complete: that is what a static batch is."""
        longest = max(len(ask.prompt_ids) for ask in asks)
        rows = [[_PAD] * (longest - len(ask.prompt_ids)) + list(ask.prompt_ids) for ask in asks]
        masks = [[0] * (longest - len(ask.prompt_ids)) + [1] * len(ask.prompt_ids) for ask in asks]
        tokens = max(ask.answer_tokens for ask in asks)
        options: dict[str, Any] = {}
        if self._way == "mixed":
            options["adapter_names"] = ["__base__" if ask.adapter is None else f"a{ask.adapter}" for ask in asks]
        elif self._way == "switching":
            self._model.set_adapter(f"a{asks[0].adapter}")
        said = self._model.generate(
            input_ids=torch.tensor(rows),
            attention_mask=torch.tensor(masks),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=_PAD,
            **options,
        )
        assert said.shape == (len(asks), longest + tokens)


def main() -> None:
    """Load, then answer what the pipe asks."""
    answers = pipe.claim_answers()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=("base", "mixed", "switching"), required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapters", type=Path)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", choices=tuple(_DTYPES), default="bf16")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    adapters = sorted(given.adapters.iterdir())[: given.count] if given.count else []
    batches = Batches(given.way, given.base, adapters, given.precision)

    def run(asked: dict[str, Any]) -> dict[str, Any]:
        return batches.run(Workload.from_json(asked["workload"])).to_json()

    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    pipe.serve(answers, {"versions": versions}, {"run": run})


if __name__ == "__main__":
    main()
