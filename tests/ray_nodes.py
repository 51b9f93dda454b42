"""Several nodes of one Ray as processes of this machine."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import ray
from ray.cluster_utils import Cluster

from trellis.local.processes import MARKER, marked_pids

_MARK: Final = uuid.uuid4().hex[:16]
"""In the environment of all that the nodes start: another Ray on this machine may have workers too."""


@contextlib.contextmanager
def ray_nodes(**head: Any) -> Iterator[Cluster]:
    """A head, to which nodes are added; all of them are gone in the end. A dashboard, of many processes, is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARKER, _MARK)
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # as ray_head.py has it: nobody takes them
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def train_workers() -> list[int]:
    """The processes of Ray Train's workers on these nodes."""
    return [pid for pid in marked_pids(_MARK) if b"ray::RayTrainWorker" in _command(pid)]


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
