"""Checkpoints that any number of workers can go on from: whole weights and moments, by name, spread over a few files.

Under the checkpoint's key: `model/weights-…` and `model/optimizer-…`, one of each a worker that wrote it, `state.json`, a
PEFT folder where an adapter is trained, and `COMMIT` last, which names all with their sha256 (ADR 0011).
"""

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trellis.artifacts import FileFacts, file_facts
from trellis.exports import put_file
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis_jobs.checkpoint import COMMIT, Checkpoints
from trellis_jobs.committed import Committed
from trellis_jobs.distributed.engine import MOMENTS, Engine
from trellis_jobs.distributed.team import Team

_STATE: Final = "state.json"
_REFERENCE: Final = "model/reference.safetensors"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a run goes on; weights and moments are set already."""

    step: int
    state: Mapping[str, Any]
    reference: Mapping[str, torch.Tensor]


class States:
    """Writes and reads checkpoints; every method is a collective of all workers."""

    def __init__(self, store: ObjectStore, prefix: str, attempt: int, engine: Engine, team: Team) -> None:
        self._store = store
        self._checkpoints = Checkpoints(store, prefix, attempt)
        self._engine = engine
        self._team = team

    def key(self, step: int) -> str:
        """Where this attempt's checkpoint of a step lies."""
        return self._checkpoints.key(step)

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        reference: Mapping[str, torch.Tensor],
        write_adapter: Callable[[Path], None],
        valid_loss: float | None,
    ) -> Committed:
        """Write a checkpoint and commit it. `write_adapter` adds a PEFT folder's files on the first worker, if any."""
        key = self._checkpoints.key(step)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            self._write_share(folder)
            (folder / "adapter").mkdir()
            write_adapter(folder / "adapter")
            if self._team.rank == 0:
                _write_state(folder, {**state, "step": step}, reference)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            found = {path.relative_to(folder).as_posix().removeprefix("adapter/"): path for path in paths}
            facts = {name: put_file(self._store, f"{key}/{name}", path) for name, path in found.items()}
        every = {name: one for part in self._team.gathered(facts) for name, one in part.items()}
        if self._team.rank == 0:
            marker = {name: {"sha256": one.sha256, "size": one.size} for name, one in every.items()}
            self._store.put_bytes(f"{key}/{COMMIT}", json.dumps({"step": step, "files": marker}).encode())
        self._team.wait()
        return Committed(step, key, sum(one.size for one in every.values()), valid_loss)

    def resume(self, key: str, step: int) -> Resumed | None:
        """Go on from the checkpoint of this key, or the newest sound one up to its step; None if there is none."""
        for candidate in [key, *(other for other in self._checkpoints.older(step) if other != key)]:
            with tempfile.TemporaryDirectory() as scratch:
                found = self._fetch(candidate, Path(scratch))
                if all(self._team.gathered(found is not None)):
                    assert found is not None
                    return self._restore(Path(scratch), found)
        return None

    def load_weights(self, key: str) -> None:
        """Take the weights of a checkpoint and leave the rest. Raises ValueError if it is not sound."""
        with tempfile.TemporaryDirectory() as scratch:
            if not all(self._team.gathered(self._fetch(key, Path(scratch)) is not None)):
                raise ValueError(f"The checkpoint {key} can't be read any more.")
            self._set_weights(Path(scratch))

    def _write_share(self, folder: Path) -> None:
        """Each worker keeps every n-th tensor, so that writing is shared; all take part in gathering each."""
        weights: dict[str, torch.Tensor] = {}
        moments: dict[str, torch.Tensor] = {}
        for number, name in enumerate(self._engine.trained_names()):
            mine = number % self._team.size == self._team.rank
            found = {key: self._engine.moment(name, key) for key in MOMENTS}
            weight = self._engine.weight(name)
            if mine:
                weights[name] = weight.cpu().contiguous()
                moments |= {f"{name}.{key}": value.cpu().contiguous() for key, value in found.items()}
        if weights:
            (folder / "model").mkdir()
            save_file(weights, folder / f"model/weights-{self._team.rank:05d}.safetensors")
            save_file(moments, folder / f"model/optimizer-{self._team.rank:05d}.safetensors")

    def _fetch(self, key: str, folder: Path) -> dict[str, Any] | None:
        """The state of a checkpoint whose files were copied to the folder; None if it is not sound."""
        try:
            marker = json.loads(self._store.read_bytes(f"{key}/{COMMIT}"))
            for name, facts in marker["files"].items():
                self._store.get_file(f"{key}/{name}", folder / name)
                if file_facts(folder / name) != FileFacts(facts["sha256"], facts["size"]):
                    raise ValueError(f"{name} is not what was committed")
            return dict(json.loads((folder / _STATE).read_bytes()))
        except (ObjectNotFoundError, ValueError, LookupError, SafetensorError) as error:
            _log.warning("The checkpoint %s can't be used: %s", key, error)
            return None

    def _restore(self, folder: Path, state: dict[str, Any]) -> Resumed:
        step = int(state.pop("step"))
        self._set_weights(folder)
        self._engine.begin_moments(step)
        for path in sorted(folder.glob("model/optimizer-*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                for name in sorted(tensors.keys()):
                    weight, _, key = name.rpartition(".")
                    self._engine.set_moment(weight, key, tensors.get_tensor(name).to(self._team.device.target))
        return Resumed(step, state, _read_reference(folder / _REFERENCE))

    def _set_weights(self, folder: Path) -> None:
        for path in sorted(folder.glob("model/weights-*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                for name in sorted(tensors.keys()):
                    self._engine.set_weight(name, tensors.get_tensor(name).to(self._team.device.target))


def _write_state(folder: Path, state: Mapping[str, Any], reference: Mapping[str, torch.Tensor]) -> None:
    (folder / _STATE).write_text(json.dumps(state, allow_nan=False))
    if reference:
        (folder / "model").mkdir(exist_ok=True)
        save_file(dict(reference), folder / _REFERENCE)


def _read_reference(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  no mapping
