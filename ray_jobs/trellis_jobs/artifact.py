"""The adapter as files: written, read back from the object store, checked, and named by its manifest."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from trellis.artifacts import (
    ADAPTER_FILES,
    CONFIG_FILE,
    MANIFEST_FILE,
    Manifest,
    file_facts,
)
from trellis.objects import ObjectStore
from trellis.spec import TrainSpec

TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 1e-1}
"""By how much logits may differ, by the format that they are computed in."""
_log = logging.getLogger(__name__)


class AdapterObjects:
    """An adapter's files under a prefix of the object store."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix.rstrip("/")

    def upload(self, folder: Path) -> None:
        """Store the adapter's files."""
        for name in ADAPTER_FILES:
            self._store.put_file(f"{self._prefix}/{name}", folder / name)

    def download(self, folder: Path) -> None:
        """Fetch the adapter's files."""
        for name in ADAPTER_FILES:
            self._store.get_file(f"{self._prefix}/{name}", folder / name)

    def upload_manifest(self, manifest: Manifest) -> None:
        """Store the manifest; it comes last, so that an adapter without one is not complete."""
        self._store.put_bytes(f"{self._prefix}/{MANIFEST_FILE}", manifest.to_json())


def save_adapter(model: Any, folder: Path, spec: TrainSpec, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write the adapter of a PeftModel in PEFT's format; equal weights give equal bytes.

    With `weights` those are written, by the names that they have in the model, instead of the model's own.
    """
    model.save_pretrained(
        str(folder),
        safe_serialization=True,
        save_embedding_layers=False,
        state_dict=None if weights is None else {**weights},
    )
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = _public_source(spec)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for extra in folder.iterdir():
        if extra.name not in ADAPTER_FILES:
            extra.unlink()


def _public_source(spec: TrainSpec) -> str:
    """What the base is called outside of this machine: its hub id, or its name in the platform."""
    folder = Path(spec.base_source).expanduser()
    return spec.base_model.rpartition("/")[2] if folder.is_dir() else spec.base_source


def manifest_of(
    folder: Path, spec: TrainSpec, *, metrics: Mapping[str, Any], code_version: str, tuning_job: str
) -> Manifest:
    """The manifest of a trained adapter."""
    return Manifest(
        base_model=spec.base_model,
        base_revision=spec.base_revision,
        tokenizer_digest=spec.tokenizer_digest,
        dataset_version=spec.training_dataset,
        dataset_sha256=spec.training_sha256,
        spec=json.loads(spec.to_json()),
        metrics=metrics,
        code_version=code_version,
        tuning_job=tuning_job,
        files={name: file_facts(folder / name) for name in ADAPTER_FILES},
    )
