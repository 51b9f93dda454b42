"""Random PEFT adapters with a manifest, for a tiny base."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trellis.artifacts import ADAPTER_FILES, MANIFEST_FILE, Manifest, file_facts
from trellis.bases import BaseFacts


def write_adapter(
    folder: Path,
    facts: BaseFacts,
    tokenizer_digest: str,
    *,
    seed: int,
    rank: int = 4,
    targets: tuple[str, ...] = ("q_proj", "v_proj", "down_proj"),
    scale: float = 0.5,
    base_revision: str = "",
) -> str:
    """Write the adapter as PEFT saves it, and return the digest of its manifest."""
    model = AutoModelForCausalLM.from_pretrained(facts.path)
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets)))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=scale)
    tuned.save_pretrained(str(folder))
    for path in folder.iterdir():
        if path.name not in ADAPTER_FILES:
            path.unlink()
    files = {name: file_facts(folder / name) for name in ADAPTER_FILES}
    manifest = Manifest("baseModels/tiny", base_revision or facts.revision, tokenizer_digest, files)
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
    return manifest.digest
