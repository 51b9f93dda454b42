"""Exports of tiny models: a store, and a way to make one."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from trellis.artifacts import ADAPTER_FILES
from trellis.exports import TASK_FILE, ExportManifest, ExportTask
from trellis.objects import ObjectStore
from trellis_jobs.export.run import run

KEY = "tenants/acme/exports/one"
ADAPTER_KEY = "tenants/acme/adapters/one"
TOKENS = torch.tensor([[5, 17, 60, 3, 88, 41, 9, 33]])


@dataclass
class Exporting:
    """Makes exports."""

    folder: Path
    store: ObjectStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = ObjectStore.open(str(self.folder / "store"))

    def adapt(self, base: Path, *, scale: float = 0.2, seed: int = 3, dtype: Any = "auto", **lora: Any) -> Path:
        """Lay a random adapter into the store, as PEFT writes it; its folder."""
        folder = self.folder / "adapter"
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        tuned = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **lora}))
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=scale)
        tuned.save_pretrained(str(folder))
        for name in ADAPTER_FILES:
            self.store.put_file(f"{ADAPTER_KEY}/{name}", folder / name)
        return folder

    def task(self, base: Path, **changes: Any) -> None:
        task = ExportTask("SAFETENSORS", "baseModels/tiny", str(base), "", "", ADAPTER_KEY, "tenants/acme/adapters/a")
        self.store.put_bytes(f"{KEY}/{TASK_FILE}", replace(task, **changes).to_json())

    def run(self, base: Path, **options: Any) -> tuple[Path, ExportManifest]:
        """Make the export; the folder that its user would download, and the manifest."""
        self.task(base)
        manifest = run(self.store, KEY, "1", **options)
        target = self.folder / "downloaded"
        for path in manifest.files:
            self.store.get_file(f"{KEY}/{path}", target / path)
        return target, manifest


@pytest.fixture
def exporting(tmp_path: Path) -> Exporting:
    return Exporting(tmp_path)


def logits_of(folder: Path, adapter: Path | None = None, dtype: Any = torch.float32) -> torch.Tensor:
    """The model's logits for a few tokens, with the adapter as PEFT applies it."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.float()  # type: ignore[no-any-return]


def worst(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a share of how far the logits spread."""
    difference = float((one - other).abs().max() / other.std())
    assert math.isfinite(difference)
    return difference
