"""What a run hands in: an adapter as a PEFT folder, checked as stored. All workers run it; the first one writes.

Shapes: T probe tokens, V vocabulary.
"""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from trellis.artifacts import WEIGHTS_FILE, ArtifactError, check_adapter_folder
from trellis.bases import BaseFacts
from trellis.objects import ObjectStore
from trellis.spec import TrainSpec
from trellis_jobs.artifact import TOLERANCE, AdapterObjects, save_adapter
from trellis_jobs.distributed.engine import Engine
from trellis_jobs.distributed.team import Team

_log = logging.getLogger(__name__)


def write_adapter(engine: Engine, team: Team, folder: Path, spec: TrainSpec) -> None:
    """Write the adapter, gathered from all workers, into a folder of the first one."""
    weights: dict[str, torch.Tensor] = {}
    for name in engine.trained_names():
        weight = engine.weight(name)
        if team.rank == 0:
            weights[name] = weight.cpu().contiguous()
    if team.rank == 0:
        save_adapter(engine.network, folder, spec, weights)


def hand_in_adapter(
    engine: Engine,
    team: Team,
    spec: TrainSpec,
    facts: BaseFacts,
    store: ObjectStore,
    prefix: str,
    probe_T: torch.Tensor,
) -> tempfile.TemporaryDirectory[str]:
    """Store the adapter and take it back from the store into the engine; the folder in which it then lies.

    Raises ArtifactError if it does not pass the gate, does not give the logits of the trained one, or those of the base.
    """
    objects = AdapterObjects(store, prefix)
    trained_TV = probe(engine, team, probe_T)
    with tempfile.TemporaryDirectory() as scratch:
        write_adapter(engine, team, Path(scratch), spec)
        if team.rank == 0:
            objects.upload(Path(scratch))
    team.wait()
    stored = tempfile.TemporaryDirectory()
    folder = Path(stored.name)
    objects.download(folder)
    adapter = check_adapter_folder(folder, facts)
    found = _by_engine_name(load_file(folder / WEIGHTS_FILE), engine)
    _fill(engine, team, {name: torch.zeros_like(value) for name, value in found.items()})
    untouched_TV = probe(engine, team, probe_T)
    _fill(engine, team, found)
    stored_TV = probe(engine, team, probe_T)
    change = check_logits(trained_TV, stored_TV, untouched_TV, TOLERANCE[team.device.dtype], "adapter")
    if team.rank == 0:
        _log.info("The stored adapter has %d parameters; it changes logits by %.3g.", adapter.parameter_count, change)
    return stored


def probe(engine: Engine, team: Team, probe_T: torch.Tensor) -> torch.Tensor:
    """The logits of a few tokens: (T, V)."""
    engine.train(False)
    return engine.logits(input_ids=probe_T[None].to(team.device.target), use_cache=False)[0].float()


def check_logits(trained: torch.Tensor, stored: torch.Tensor, base: torch.Tensor, tolerance: float, what: str) -> float:
    """By how much the stored weights change the base's logits. Raises ArtifactError."""
    if not torch.allclose(stored, trained, atol=tolerance, rtol=tolerance):
        difference = float((stored - trained).abs().max())
        message = f"The stored {what} does not give the logits of the trained one (they differ by {difference:.3g})."
        raise ArtifactError("no_effect", message)
    change = float((stored - base).abs().max())
    if not change > 0:
        message = f"The {what} does not change what the base answers; train it longer, or with a higher learning_rate."
        raise ArtifactError("no_effect", message)
    return change


def _by_engine_name(tensors: Mapping[str, torch.Tensor], engine: Engine) -> dict[str, torch.Tensor]:
    """Stored weights by the names they have in the engine. Raises ArtifactError unless they are all of its weights."""
    found = {name: tensors.get(name.replace(".default.", ".")) for name in engine.trained_names()}
    missing = [name for name, value in found.items() if value is None]
    if missing or len(found) != len(tensors):
        message = f"The stored adapter has {len(tensors)} weights, but {len(found)} were trained."
        raise ArtifactError("incomplete", message)
    return {name: value for name, value in found.items() if value is not None}


def _fill(engine: Engine, team: Team, values: Mapping[str, torch.Tensor]) -> None:
    for name, value in values.items():
        engine.set_weight(name, value.float().to(team.device.target))
