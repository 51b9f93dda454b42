"""The processes of a trainer with several workers: the leader starts the others as Ray actors."""

import logging
import os
import socket
from typing import Any, Final

import ray
import torch

from trellis.base_cache.waiting import read_base_in_time
from trellis.v1.trainer_pb2 import StartTrainerResponse
from trellis_jobs.device import choose_device, limit_threads
from trellis_jobs.model import load_base
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.workers import Leader, follow, join_team

_START_SECONDS: Final = 600.0
_log = logging.getLogger(__name__)


class Follower:
    """The body of an actor: loads the base and does what the leader says."""

    def ready(self) -> None:
        """Answers once the actor has its place."""

    def run(self, work: bytes, address: str, rank: int, rank_rows: int, max_slots: int) -> None:
        """Follow until the leader ends it or is gone."""
        limit_threads()
        start = StartTrainerResponse.FromString(work)
        join_team(address, rank, start.workers)
        device = choose_device(start.precision)  # type: ignore[arg-type]  # one of its values, by the contract
        facts = read_base_in_time(start.base_source, start.base_revision)
        model: Any = load_base(facts, device)
        follow(FusedModel(model, facts, device, rank_rows=rank_rows, max_slots=max_slots))


def lead(work: StartTrainerResponse, fused: FusedModel) -> Leader:
    """Start the other workers, each with its CPUs and GPUs, and take the lead.

    They are on whatever nodes have room, which must see the same base model; they end when this process does. Raises
    ray.exceptions.GetTimeoutError when Ray has no room for them for ten minutes.
    """
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=True)
    here: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    address = f"tcp://{here}:{_free_port()}"
    options = {
        "num_cpus": work.worker_cpus,
        "num_gpus": work.worker_gpus,
        "runtime_env": {"env_vars": _environment(work.worker_cpus)},
        "max_restarts": 0,
    }
    actor: Any = ray.remote(Follower).options(**options)
    _FOLLOWERS.extend(actor.remote() for _ in range(1, work.workers))
    _log.info("Waiting for %d further workers.", work.workers - 1)
    ray.get([follower.ready.remote() for follower in _FOLLOWERS], timeout=_START_SECONDS)
    for rank, follower in enumerate(_FOLLOWERS, start=1):
        follower.run.remote(work.SerializeToString(), address, rank, fused.bank.rows, fused.bank.max_slots)
    join_team(address, 0, work.workers)
    return Leader(fused)


_FOLLOWERS: list[Any] = []
"""Held, as Ray ends actors that nobody holds."""


def _environment(cpus: float) -> dict[str, str]:
    threads = str(max(1, int(cpus))) if not torch.cuda.is_available() else str(torch.get_num_threads())
    return {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
