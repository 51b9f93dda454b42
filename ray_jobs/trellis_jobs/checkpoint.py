"""Checkpoints in the object store. One counts only when its commit marker is there, which is written last."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.spec import KEPT_CHECKPOINTS

COMMIT: Final = "COMMIT"
_ADAPTER, _OPTIMIZER, _STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"
_FOLDER: Final = re.compile(r"step-(\d{8,})-attempt-(\d+)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a run needs to go on as if it had never stopped; tensors are on the CPU, `state` is JSON."""

    step: int
    adapter: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint that is there with all its files."""

    step: int
    key: str
    size_bytes: int
    valid_loss: float | None = None
    """The held-out loss at its step, if that was measured."""


class Checkpoints:
    """The checkpoints of a job; each attempt writes folders of its own."""

    def __init__(self, store: ObjectStore, prefix: str, attempt: int) -> None:
        self._store = store
        self._prefix = prefix.rstrip("/")
        self._attempt = attempt

    def save(self, snapshot: Snapshot) -> Committed:
        """Write a checkpoint and commit it."""
        key = f"{self._prefix}/step-{snapshot.step:08d}-attempt-{self._attempt}"
        files = {
            _ADAPTER: save_tensors(dict(snapshot.adapter)),
            _OPTIMIZER: save_tensors(dict(snapshot.optimizer)),
            _STATE: json.dumps({**snapshot.state, "step": snapshot.step}, allow_nan=False).encode(),
        }
        for name, data in files.items():
            self._store.put_bytes(f"{key}/{name}", data)
        facts = {name: {"sha256": _sha256(data), "size": len(data)} for name, data in files.items()}
        self._store.put_bytes(f"{key}/{COMMIT}", json.dumps({"step": snapshot.step, "files": facts}).encode())
        return Committed(snapshot.step, key, sum(map(len, files.values())))

    def resume(self, key: str, step: int) -> Snapshot | None:
        """The checkpoint of this key or, if it can't be read, the newest sound one up to its step; None if there is none."""
        older = [other for at, other in sorted(self._folders(), reverse=True) if other != key and at <= step]
        for candidate in [key, *older]:
            try:
                return self._load(candidate)
            except (ObjectNotFoundError, ValueError, LookupError, SafetensorError) as error:
                _log.warning("The checkpoint %s can't be used: %s", candidate, error)
        return None

    def prune(self, acknowledged_step: int) -> None:
        """Delete all but the last two that the server knows of, and what is newer."""
        folders = self._folders()
        known = sorted({step for step, _ in folders if step <= acknowledged_step})
        for step, key in folders:
            if len(known) > KEPT_CHECKPOINTS and step < known[-KEPT_CHECKPOINTS]:
                self._store.delete(f"{key}/{COMMIT}")
                self._store.delete_prefix(key)

    def _folders(self) -> list[tuple[int, str]]:
        """Steps and keys, committed or not."""
        names = {found.key.removeprefix(self._prefix + "/").split("/")[0] for found in self._store.list(self._prefix)}
        matches = [match for match in map(_FOLDER.fullmatch, sorted(names)) if match]
        return [(int(match[1]), f"{self._prefix}/{match[0]}") for match in matches]

    def _load(self, key: str) -> Snapshot:
        marker = json.loads(self._store.read_bytes(f"{key}/{COMMIT}"))
        files = {name: self._store.read_bytes(f"{key}/{name}") for name in (_ADAPTER, _OPTIMIZER, _STATE)}
        for name, data in files.items():
            if _sha256(data) != marker["files"][name]["sha256"]:
                raise ValueError(f"{name} is not what was committed")
        state = json.loads(files[_STATE])
        return Snapshot(state.pop("step"), load_tensors(files[_ADAPTER]), load_tensors(files[_OPTIMIZER]), state)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
