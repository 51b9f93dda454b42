"""A tiny base with everything an engine needs, and random adapters for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.tiny_adapter import write_adapter
from tests.tiny_llama import write_tiny_llama
from trellis.bases import BaseFacts, read_base
from trellis.engine import AdapterLoader, Engine, EngineLimits, LoadedAdapter, Runner
from trellis.objects import ObjectStore
from trellis.tokens import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Workshop:
    folder: Path
    facts: BaseFacts
    tokenizer: ChatTokenizer
    runner: Runner
    store: ObjectStore
    loader: AdapterLoader

    def engine(self, **limits: int) -> Engine:
        return Engine(self.runner, self.tokenizer, self.facts.context_length, EngineLimits(**limits))

    def adapter_folder(self, seed: int) -> Path:
        return self.folder / f"adapter-{seed}"

    def adapter(self, seed: int, **options: Any) -> LoadedAdapter:
        digest = self.store_adapter(seed, **options)
        return self.loader.load(digest, f"adapters/{digest}")

    def store_adapter(self, seed: int, **options: Any) -> str:
        folder = self.adapter_folder(seed)
        digest = write_adapter(folder, self.facts, self.tokenizer.digest, seed=seed, **options)
        for path in folder.iterdir():
            self.store.put_file(f"adapters/{digest}/{path.name}", path)
        return digest


def make_workshop(folder: Path) -> Workshop:
    facts = read_base(str(write_lively_base(folder / "base")))
    tokenizer = ChatTokenizer.load(facts.path)
    store = ObjectStore.open(str(folder / "objects"))
    return Workshop(folder, facts, tokenizer, Runner.load(facts), store, AdapterLoader(store, facts, tokenizer.digest))


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
