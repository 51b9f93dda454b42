"""torch's process group of the workers, as Ray Train sets it up: Ray's own `TorchConfig`, in processes that import no torch.

Ray's imports it in the driver and in the controller, which never compute: 3 seconds and 400 MB in each.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

import ray
from ray import train
from ray.train.backend import Backend, BackendConfig

_LEAVE_SECONDS: Final = 30.0
"""So long workers may take to leave their group, before they are ended in it."""


@dataclass
class ProcessGroup(BackendConfig):
    """A group of all workers, by NCCL where they have GPUs, else by gloo."""

    timeout_seconds: float
    """How long a worker waits for the others in one call."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What the controller does with the workers."""
        return _ProcessGroupBackend

    @property
    def train_func_context(self) -> Any:
        """What the training function runs in, on each worker."""
        return _on_own_device

    def to_dict(self) -> dict[str, Any]:
        """For Ray's own records."""
        return asdict(self)


class _ProcessGroupBackend(Backend):
    share_cuda_visible_devices = True
    """Workers of one node see each other's GPUs, as NCCL wants it."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Have all workers join a group whose address is the first one's."""
        assert isinstance(backend_config, ProcessGroup)
        name = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        address, port = worker_group.execute_single(0, _free_address)
        worker_group.execute(_join, name, address, port, backend_config.timeout_seconds)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002  Ray gives it
        """Have all workers leave it, as far as they still can."""
        with contextlib.suppress(ray.exceptions.GetTimeoutError):
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_SECONDS)


def _free_address() -> tuple[str, int]:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # it tells no types
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as door:
        door.bind(("", 0))
        return address, door.getsockname()[1]


def _join(name: str, address: str, port: int, timeout_seconds: float) -> None:
    import torch  # noqa: PLC0415  only workers compute
    from ray.train.torch import get_device  # noqa: PLC0415  imports torch

    context = train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
        "ACCELERATE_TORCH_DEVICE": str(get_device()),
    }
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as Ray has it: a lost peer ends the others' waiting
    torch.distributed.init_process_group(name, init_method="env://", timeout=timedelta(seconds=timeout_seconds))


def _leave() -> None:
    import torch  # noqa: PLC0415  as above

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _on_own_device() -> Iterator[None]:
    import torch  # noqa: PLC0415  as above
    from ray.train.torch import get_device  # noqa: PLC0415  as above

    if torch.cuda.is_available():
        torch.cuda.set_device(get_device())
    yield
