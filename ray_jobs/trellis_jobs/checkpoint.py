"""Checkpoints in the object store. One counts only when its commit marker is there, which is written last.

A checkpoint of an adapter is a PEFT folder with two files beside it: what the optimizer needs, and the run's state. The
server decides which are kept; a process only writes.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors

from trellis.artifacts import CONFIG_FILE, WEIGHTS_FILE
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis_jobs.committed import Committed

COMMIT: Final = "COMMIT"
OPTIMIZER_FILE: Final = "optimizer.safetensors"
STATE_FILE: Final = "state.json"
_FILES: Final = (CONFIG_FILE, WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE)
_FOLDER: Final = re.compile(r"step-(\d{8,})-attempt-(\d+)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a run needs to go on as if it had never stopped; tensors are on the CPU, `state` is JSON."""

    step: int
    adapter: Mapping[str, torch.Tensor]
    """By their names in PEFT's file."""
    optimizer: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]
    config: bytes = b"{}"
    """PEFT's adapter_config.json."""

    @property
    def valid_loss(self) -> float | None:
        """The held-out loss at its step, if that was measured."""
        return self.state.get("valid_loss")


class Checkpoints:
    """The checkpoints of a job; each attempt writes folders of its own."""

    def __init__(self, store: ObjectStore, prefix: str, attempt: int) -> None:
        self._store = store
        self._prefix = prefix.rstrip("/")
        self._attempt = attempt

    def key(self, step: int) -> str:
        """Where this attempt's checkpoint of a step lies."""
        return f"{self._prefix}/step-{step:08d}-attempt-{self._attempt}"

    def save(self, snapshot: Snapshot) -> Committed:
        """Write a checkpoint and commit it."""
        files = {
            CONFIG_FILE: snapshot.config,
            WEIGHTS_FILE: save_tensors(dict(snapshot.adapter), metadata={"format": "pt"}),
            OPTIMIZER_FILE: save_tensors(dict(snapshot.optimizer)),
            STATE_FILE: json.dumps({**snapshot.state, "step": snapshot.step}, allow_nan=False).encode(),
        }
        return self.commit(snapshot.step, files, snapshot.valid_loss)

    def commit(self, step: int, files: Mapping[str, bytes], valid_loss: float | None = None) -> Committed:
        """Write a checkpoint's files, by their names, and then its marker."""
        key = self.key(step)
        for name, data in files.items():
            self._store.put_bytes(f"{key}/{name}", data)
        facts = {name: {"sha256": _sha256(data), "size": len(data)} for name, data in files.items()}
        self._store.put_bytes(f"{key}/{COMMIT}", json.dumps({"step": step, "files": facts}).encode())
        return Committed(step, key, sum(map(len, files.values())), valid_loss)

    def resume(self, key: str, step: int) -> Snapshot | None:
        """The checkpoint of this key or, if it can't be read, the newest sound one up to its step; None if there is none."""
        for candidate in [key, *(other for other in self.older(step) if other != key)]:
            try:
                return self.load(candidate)
            except (ObjectNotFoundError, ValueError, LookupError, SafetensorError) as error:
                _log.warning("The checkpoint %s can't be used: %s", candidate, error)
        return None

    def older(self, step: int) -> list[str]:
        """The keys of all folders up to a step, the newest first, committed or not."""
        return [key for at, key in sorted(self._folders(), reverse=True) if at <= step]

    def load(self, key: str) -> Snapshot:
        """The checkpoint of this key. Raises ObjectNotFoundError, ValueError, LookupError or SafetensorError."""
        marker = json.loads(self._store.read_bytes(f"{key}/{COMMIT}"))
        files = {name: self._store.read_bytes(f"{key}/{name}") for name in _FILES}
        for name, data in files.items():
            if _sha256(data) != marker["files"][name]["sha256"]:
                raise ValueError(f"{name} is not what was committed")
        state = json.loads(files[STATE_FILE])
        tensors = load_tensors(files[WEIGHTS_FILE]), load_tensors(files[OPTIMIZER_FILE])
        return Snapshot(state.pop("step"), *tensors, state, files[CONFIG_FILE])

    def _folders(self) -> list[tuple[int, str]]:
        """Steps and keys, committed or not."""
        names = {found.key.removeprefix(self._prefix + "/").split("/")[0] for found in self._store.list(self._prefix)}
        matches = [match for match in map(_FOLDER.fullmatch, sorted(names)) if match]
        return [(int(match[1]), f"{self._prefix}/{match[0]}") for match in matches]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
