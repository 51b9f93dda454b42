"""Workers of the distributed trainer as plain processes in a group of gloo (NCCL on a GPU), without Ray."""

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from queue import Empty
from typing import Any

import pytest
import torch
from torch import distributed

from trellis.local.ports import free_ports
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.distributed.config import prepare_process
from trellis_jobs.distributed.environment import worker_environment
from trellis_jobs.distributed.mailbox import Message
from trellis_jobs.distributed.order import Order
from trellis_jobs.distributed.post import Post
from trellis_jobs.distributed.worker import run_share
from trellis_jobs.failure import Failure, JobStoppedError, describe

SECONDS = 280


@dataclass
class Told:
    """What the first worker said."""

    messages: list[Message] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def all(self, name: str) -> list[Any]:
        return [message.values for message in self.messages if message.name == name]

    def losses(self) -> dict[int, float]:
        return {values["step"]: values["loss"] for values in self.all("stepped")}

    def events(self) -> list[str]:
        return [values["message"] for values in self.all("event")]

    def checkpoints(self) -> list[Any]:
        return [values["committed"] for values in self.all("checkpoint")]

    @property
    def finished(self) -> Any:
        assert not self.failures, self.failures
        (values,) = self.all("finished")
        return values


def run_workers(
    workers: int,
    works: Mapping[str, StartAttemptResponse],
    stops: Mapping[str, tuple[int, int]] | None = None,
    *,
    on_gpu: bool = False,
) -> dict[str, Told]:
    """Run jobs, by name, on the same workers, one after the other, until one fails.

    `stops` has a StopRequest, and after which step the workers hear of it.
    """
    environment = worker_environment(1, on_gpu=on_gpu)
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    (port,) = free_ports(1)
    names = list(works)
    data = [(work.SerializeToString(), (stops or {}).get(name, (0, 0))) for name, work in works.items()]
    processes = [context.Process(target=_worker, args=(data, rank, workers, port, queue)) for rank in range(workers)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)  # a process has its parent's environment as it is when it starts
        for process in processes:
            process.start()
    told, running = [Told() for _ in names], workers
    try:
        while running:
            number, item = _next(queue, processes)
            if item is None:
                running -= 1
            elif isinstance(item, Failure):
                told[number].failures.append(item)
                break
            else:
                told[number].messages += item
    except Empty:
        told[0].failures.append(describe(TimeoutError("The workers died, or said nothing for too long.")))
    finally:
        for process in processes:
            if any(one.failures for one in told):
                process.kill()
            process.join()
    return dict(zip(names, told, strict=True))


def _next(queue: Any, processes: Sequence[Any]) -> Any:
    """The next thing that a worker says; a worker that died without a word says nothing for all."""
    for _ in range(SECONDS):
        with contextlib.suppress(Empty):
            return queue.get(timeout=1)
        if any(process.exitcode for process in processes):
            raise Empty
    raise Empty


def _worker(works: list[tuple[bytes, tuple[int, int]]], rank: int, size: int, port: int, queue: Any) -> None:
    os.environ.update({
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
    })  # fmt: skip
    prepare_process(1)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=SECONDS))
    for number, (work, asked) in enumerate(works):
        if not _run(number, work, rank, size, queue, asked):
            return
    queue.put((0, None))
    distributed.destroy_process_group()


def _run(number: int, work: bytes, rank: int, size: int, queue: Any, asked: tuple[int, int]) -> bool:
    steps = 0

    def send(messages: list[Message]) -> int:
        nonlocal steps
        steps += sum(message.name == "stepped" for message in messages)
        if messages:
            queue.put((number, messages))
        return asked[0] if asked[0] and steps >= asked[1] else 0

    post = Post(send, rank)
    try:
        run_share(Order(work, None, 1, "1.2.3"), post, rank, size, size)
    except JobStoppedError:
        pass
    except BaseException as error:  # noqa: BLE001  told to the test
        traceback.print_exc()
        post.close()
        queue.put((number, describe(error)))
        return False
    post.close()
    return True
