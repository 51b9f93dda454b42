"""A trained adapter on its way to the server: stored, fetched again, and checked to be the one that was trained."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from trellis.artifacts import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ArtifactError,
    Manifest,
    check_adapter_folder,
    read_adapter_config,
)
from trellis.bases import BaseFacts
from trellis.lora import LoraWeights
from trellis.objects import ObjectStore
from trellis_jobs.artifact import AdapterObjects, manifest_of
from trellis_jobs.evaluation import Evaluation
from trellis_jobs.shared.attempt import Attempt
from trellis_jobs.shared.weights import adapter_config, named_tensors


class HandingIn:
    """An adapter's files under the attempt's own prefix. Its methods block; they are called off the loop's thread."""

    def __init__(self, attempt: Attempt, store: ObjectStore, facts: BaseFacts) -> None:
        self._attempt = attempt
        self._facts = facts
        self._objects = AdapterObjects(store, attempt.work.adapter_prefix)
        self._scratch = tempfile.TemporaryDirectory(prefix="trellis-adapter-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._scratch.cleanup()

    def store(self, weights: LoraWeights) -> None:
        """Store the adapter, fetch what was stored, and put it through the gate. Raises ArtifactError."""
        written, read = self._folder("written"), self._folder("read")
        save_file(named_tensors(weights), written / WEIGHTS_FILE, metadata={"format": "pt"})
        (written / CONFIG_FILE).write_bytes(adapter_config(weights, self._attempt.spec, self._facts))
        with self._attempt.spans.part("job.upload"):
            self._objects.upload(written)
        self._objects.download(read)
        adapter = check_adapter_folder(read, self._facts)
        _refuse_others(read, weights)
        self._attempt.log(f"The stored adapter has {adapter.parameter_count} parameters.")

    def manifest(self, base: Evaluation | None, tuned: Evaluation, totals: Mapping[str, Any]) -> Manifest:
        """The manifest of what is stored; it is stored, too, which makes the adapter whole."""
        manifest = manifest_of(
            self._folder("read"),
            self._attempt.spec,
            metrics={"base": None if base is None else asdict(base), "tuned": asdict(tuned), **totals},
            code_version=self._attempt.code_version,
            tuning_job=self._attempt.work.tuning_job,
        )
        self._objects.upload_manifest(manifest)
        self._attempt.log(f"The adapter is stored; its digest is {manifest.digest}.")
        return manifest

    def _folder(self, name: str) -> Path:
        folder = Path(self._scratch.name) / name
        folder.mkdir(exist_ok=True)
        return folder


def refuse_without_effect(trained: torch.Tensor, untouched: torch.Tensor) -> float:
    """By how much the adapter changes logits of the base. Raises ArtifactError if it does not."""
    change = float((trained - untouched).abs().max())
    if not change > 0:
        message = "The adapter does not change what the base answers; train it longer, or with a higher learning_rate."
        raise ArtifactError("no_effect", message)
    return change


def _refuse_others(folder: Path, weights: LoraWeights) -> None:
    """Raise ArtifactError unless the folder has exactly these weights and scalings."""
    config, stored = read_adapter_config(folder / CONFIG_FILE), load_file(folder / WEIGHTS_FILE)
    trained = named_tensors(weights)
    same = stored.keys() == trained.keys() and all(torch.equal(stored[name], trained[name]) for name in trained)
    scaled = all(
        abs(config.scaling_of(module) - pair.scaling) <= 1e-6 * abs(pair.scaling)
        for module, pair in weights.pairs.items()
    )
    if not (same and scaled):
        message = "The stored adapter does not give the logits of the trained one: its weights are others."
        raise ArtifactError("no_effect", message)
