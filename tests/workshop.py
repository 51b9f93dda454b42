"""A tiny base with everything an engine needs, and random adapters for it."""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.tiny_adapter import write_adapter
from tests.tiny_bank import Inline
from tests.tiny_llama import write_tiny_llama
from trellis.bases import BaseFacts, read_base
from trellis.engine import (
    AdapterLoader,
    AdapterRef,
    AdapterTiers,
    Engine,
    EngineLimits,
    GrammarCompiler,
    Runner,
    RunnerLimits,
)
from trellis.objects import ObjectStore
from trellis.tokens import ChatTokenizer

KV_BLOCKS = 96
BLOCK_TOKENS = 8
BANK_ROWS = 32
BANK_SLOTS = 3


@dataclass(frozen=True, slots=True)
class Workshop:
    folder: Path
    facts: BaseFacts
    tokenizer: ChatTokenizer
    runner: Runner
    store: ObjectStore
    loader: AdapterLoader
    made: list[AdapterTiers] = field(default_factory=list)

    def engine(
        self, *, executor: Executor | None = None, clock: Callable[[], float] = time.monotonic, **limits: Any
    ) -> Engine:
        """A new engine over the one runner; the one before it is of no use any more."""
        tiers = AdapterTiers(self.empty_bank(), self.loader.load, executor or Inline())
        self.made[:] = [tiers]
        grammars = GrammarCompiler(self.tokenizer)
        return Engine(
            self.runner, self.tokenizer, self.facts.context_length, tiers, EngineLimits(**limits), clock, grammars
        )

    def empty_bank(self) -> Any:
        for tiers in self.made:
            for resident in tiers._residents.values():
                self.runner.bank.remove(resident.slot)
            tiers._residents.clear()
        return self.runner.bank

    def adapter_folder(self, seed: int) -> Path:
        return self.folder / f"adapter-{seed}"

    def adapter(self, seed: int, **options: Any) -> AdapterRef:
        digest = self.store_adapter(seed, **options)
        return AdapterRef(digest, f"adapters/{digest}")

    def store_adapter(self, seed: int, **options: Any) -> str:
        folder = self.adapter_folder(seed)
        digest = write_adapter(folder, self.facts, self.tokenizer.digest, seed=seed, **options)
        for path in folder.iterdir():
            self.store.put_file(f"adapters/{digest}/{path.name}", path)
        return digest


def make_workshop(folder: Path, block_tokens: int = BLOCK_TOKENS) -> Workshop:
    facts = read_base(str(write_lively_base(folder / "base")))
    tokenizer = ChatTokenizer.load(facts.path)
    store = ObjectStore.open(str(folder / "objects"))
    limits = RunnerLimits(kv_blocks=KV_BLOCKS, block_tokens=block_tokens, bank_rows=BANK_ROWS, max_slots=BANK_SLOTS)
    runner = Runner.load(facts, limits)
    return Workshop(folder, facts, tokenizer, runner, store, AdapterLoader(store, facts, tokenizer.digest, runner.bank))


def write_lively_base(folder: Path) -> Path:
    """Random weights, but large ones: with the small ones of an untrained model it says one token again and again."""
    write_tiny_llama(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layers" in name and weight.dim() == 2:
                weight.mul_(12)
    model.save_pretrained(folder)
    return folder
