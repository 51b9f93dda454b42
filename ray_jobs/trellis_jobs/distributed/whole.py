"""A model of which all weights were trained: written shard by shard as safetensors, stored, read back, and checked."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from trellis.artifacts import ArtifactError
from trellis.bases import BaseFacts
from trellis.exports import ExportManifest, put_folder, write_manifest
from trellis.objects import ObjectStore
from trellis_jobs.artifact import TOLERANCE
from trellis_jobs.device import Device
from trellis_jobs.distributed.engine import Engine
from trellis_jobs.distributed.team import Team

_SHARD_BYTES: Final = 4 << 30
_INDEX: Final = "model.safetensors.index.json"
_COPIED: Final = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_log = logging.getLogger(__name__)


def write_model(engine: Engine, team: Team, facts: BaseFacts, folder: Path) -> None:
    """Write the whole model to the folder of the first worker, as transformers does; all workers gather its weights."""
    shards: list[dict[str, str]] = []
    held: dict[str, torch.Tensor] = {}
    for name, weight in engine.all_weights():
        if team.rank != 0:
            continue
        held[name] = weight.detach().to(team.device.dtype).cpu().contiguous().clone()
        if sum(value.nbytes for value in held.values()) >= _SHARD_BYTES:
            shards.append(_write_shard(folder, held, len(shards)))
            held = {}
    if team.rank != 0:
        return
    held |= _buffers(engine.network)
    if held:
        shards.append(_write_shard(folder, held, len(shards)))
    _name_shards(folder, shards)
    _copy_texts(facts.path, folder, team.device.dtype)


def _write_shard(folder: Path, tensors: dict[str, torch.Tensor], number: int) -> dict[str, str]:
    name = f"shard-{number:05d}.safetensors"
    save_file(tensors, folder / name, metadata={"format": "pt"})
    return dict.fromkeys(tensors, name)


def _buffers(network: Any) -> dict[str, torch.Tensor]:
    kept = network.state_dict().keys()
    return {name: value.cpu().contiguous() for name, value in network.named_buffers() if name in kept}


def _name_shards(folder: Path, shards: list[dict[str, str]]) -> None:
    """As transformers names them: one file, or numbered ones with an index."""
    if len(shards) == 1:
        (folder / "shard-00000.safetensors").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        final = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number:05d}.safetensors").rename(folder / final)
        weight_map |= dict.fromkeys(shard, final)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    (folder / _INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=2))


def _copy_texts(base: Path, folder: Path, dtype: torch.dtype) -> None:
    """Config, tokenizer and chat template are the base's, but for the weights' format."""
    for path in sorted({path for pattern in _COPIED for path in base.glob(pattern)}):
        if path.name != _INDEX:
            shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_bytes())
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def store_checked(
    folder: Path,
    store: ObjectStore,
    prefix: str,
    facts: BaseFacts,
    device: Device,
    probe_T: torch.Tensor,
    trained_TV: torch.Tensor,
) -> dict[str, Any]:
    """Store the folder, read it back and see that it is the trained model; its files' facts. Raises ArtifactError."""
    stored = put_folder(store, prefix, folder)
    with tempfile.TemporaryDirectory() as scratch:
        read = Path(scratch)
        for name in stored:
            store.get_file(f"{prefix}/{name}", read / name)
        _check_tensors(read, facts)
        model: Any = AutoModelForCausalLM.from_pretrained(read, dtype=device.dtype, local_files_only=True)
        with torch.no_grad():
            found_TV = model.eval()(probe_T[None], use_cache=False).logits[0].float()
    difference = float((found_TV - trained_TV.cpu()).abs().max())
    if not difference <= TOLERANCE[device.dtype] * max(1.0, float(trained_TV.abs().max())):
        message = f"The stored model does not give the logits of the trained one (they differ by {difference:.3g})."
        raise ArtifactError("no_effect", message)
    _log.info("The stored model gives the trained one's logits, but for %.3g.", difference)
    return stored


def _check_tensors(folder: Path, facts: BaseFacts) -> None:
    """All are finite, as many as the base's, and not all the base's."""
    base = dict(_tensors(facts.path))
    changed = count = 0
    for name, read in _tensors(folder):
        value = read()
        count += value.numel()
        if not bool(torch.isfinite(value).all()):
            raise ArtifactError("not_finite", f"The model's weights {name} are not all finite.")
        changed += name not in base or not torch.equal(base[name]().to(value.dtype), value)
    if count < facts.parameter_count - facts.vocabulary_size * _width(facts):
        message = f"The stored model has {count} parameters, but the base has {facts.parameter_count}."
        raise ArtifactError("incomplete", message)
    if not changed:
        message = "Training changed no weight; train longer, or with a higher learning_rate."
        raise ArtifactError("no_effect", message)


def _width(facts: BaseFacts) -> int:
    """A row of the embeddings: a base's files may have them twice, where transformers ties the head to them."""
    return max(into for _, into in facts.linear_shapes.values())


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                yield name, lambda path=path, name=name: _read(path, name)


def _read(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as tensors:
        return tensors.get_tensor(name)  # type: ignore[no-any-return]


def write_model_manifest(
    store: ObjectStore, prefix: str, files: Any, *, spec: dict[str, Any], metrics: dict[str, Any], code: str, job: str
) -> str:
    """Store the manifest, which comes last; its digest."""
    manifest = ExportManifest(
        format="SAFETENSORS",
        base_model=spec["base_model"],
        base_revision=spec["base_revision"],
        tokenizer_digest=spec["tokenizer_digest"],
        files=files,
        source=job,
        tuning_job=job,
        spec=spec,
        metrics=metrics,
        code_version=code,
    )
    return write_manifest(store, prefix, manifest)
