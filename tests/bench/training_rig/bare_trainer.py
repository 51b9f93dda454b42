"""The process in which the shared step and plain PEFT's alternate, each with a base of its own.

`load` settles tenants on both sides with the same new adapters, `step` lets one side make steps, and `bytes` tells what a job
of the shared trainer takes for each number that it trains.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.bench.serving_rig import pipe
from tests.bench.training_rig.sequential import Lines, Sequential
from tests.bench.training_rig.shared_step import SharedStep
from tests.bench.training_rig.tenant import Hyperparameters, Mix, draw_tenants
from trellis.bases import BaseFacts, read_base
from trellis_jobs.device import choose_device

_MOST_TENANTS: Final = 32
_RANK_ROWS: Final = 512
"""Of the bank: for 32 tenants of mixed ranks."""
_FIRST_TOKEN: Final = 300
"""Those before are special ones and bytes."""


@dataclass
class BareTrainer:
    """Both sides, and the case that they have."""

    base: Any
    facts: BaseFacts
    shared: SharedStep
    told: Hyperparameters = field(default_factory=Hyperparameters)
    plain: Sequential = field(default_factory=lambda: Sequential([]))
    batches: list[Lines] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> "BareTrainer":
        """The base of a folder, twice."""
        base, taken = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
        facts = read_base(str(folder))
        shared = SharedStep(taken, facts, choose_device("fp32"), _MOST_TENANTS, _RANK_ROWS)
        return cls(base.requires_grad_(False), facts, shared)

    def settle(self, tenants: int, tokens: int, mix: Mix) -> dict[str, Any]:
        """Have so many new tenants, each with one line of so many positions."""
        crowd = draw_tenants(tenants, mix)
        self.plain = Sequential([])  # its memory first
        self.plain = Sequential.of(self.base, crowd, self.told)
        self.shared.settle(crowd, [one.weights() for one in self.plain.steps], self.told)
        chance = torch.Generator().manual_seed(tokens)
        ids = torch.randint(_FIRST_TOKEN, self.facts.vocabulary_size, (tenants, tokens + 1), generator=chance)
        self.batches = [[ids_T] for ids_T in ids]
        return {}

    def step(self, side: str, count: int) -> dict[str, Any]:
        """So many steps of all tenants on one side: the seconds that they took, and the last losses."""
        one = self.shared if side == "fused" else self.plain
        losses: list[float] = []
        began = time.perf_counter()
        for _ in range(count):
            losses = one.step(self.batches)
        return {"seconds": time.perf_counter() - began, "losses": losses}

    def bytes(self, tenants: int) -> dict[str, Any]:
        """What each of so many jobs takes after a step, in bytes a number that it trains."""
        self.settle(tenants, 16, "same")
        self.step("fused", 1)
        return {"bytes": self.shared.bytes_per_parameter()}


def main() -> None:
    """Load, then do what the pipe asks."""
    answers = pipe.claim_answers()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    trainer = BareTrainer.load(given.base)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    handlers = {
        "load": lambda asked: trainer.settle(**asked),
        "step": lambda asked: trainer.step(**asked),
        "bytes": lambda asked: trainer.bytes(**asked),
    }
    pipe.serve(answers, {"versions": versions}, handlers)


if __name__ == "__main__":
    main()
