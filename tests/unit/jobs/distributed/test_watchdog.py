"""When a run is given up, and what needs a GPU is refused."""

from dataclasses import replace

import pytest
import torch

from trellis.spec import TrainSpec
from trellis.v1.worker_pb2 import END_CAUSE_INFRASTRUCTURE, END_CAUSE_USER
from trellis_jobs.device import Device
from trellis_jobs.distributed.driver import Watchdog
from trellis_jobs.distributed.network import check_quantization
from trellis_jobs.failure import JobFailedError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_training_without_a_step_is_given_up() -> None:
    clock = Clock()
    watchdog = Watchdog(clock)
    clock.now = 5000.0
    watchdog.check()  # nothing has begun: loading may take as long as it takes
    watchdog.begin()
    clock.now += 1799
    watchdog.check()
    watchdog.stepped()
    clock.now += 10_000  # the step took 1799 seconds, so ten times that is allowed
    watchdog.check()
    clock.now += 8000
    with pytest.raises(JobFailedError, match="no step for 18000 seconds") as raised:
        watchdog.check()
    assert raised.value.cause == END_CAUSE_INFRASTRUCTURE


def test_what_is_not_training_may_take_long() -> None:
    clock = Clock()
    watchdog = Watchdog(clock)
    watchdog.begin()
    watchdog.rest()
    clock.now = 1e6
    watchdog.moved()
    watchdog.check()


def test_a_4_bit_base_without_a_gpu_is_the_users_error() -> None:
    spec = TrainSpec("b", "s", "r", "t", "d", "0", 64, quantization="nf4")
    device = Device(torch.device("cpu"), torch.float32)
    check_quantization(replace(spec, quantization="none"), device)
    with pytest.raises(JobFailedError, match="needs a CUDA device") as raised:
        check_quantization(spec, device)
    assert raised.value.cause == END_CAUSE_USER
