"""What trainers are told by their environment is what they understand by it."""

import pytest
import torch

from trellis.server.domain.trainer_options import TrainerOptions
from trellis_jobs.device import Device
from trellis_jobs.shared.settings import Settings


def device(kind: str) -> Device:
    return Device(torch.device(kind), torch.float32)


@pytest.mark.parametrize(("kind", "gpus"), [("cpu", 0.0), ("cuda", 1.0)])
def test_after_a_lack_of_memory_a_pass_is_half_of_what_it_was(kind: str, gpus: float) -> None:
    options = TrainerOptions(gpus=gpus)
    assert options.environment() == {}
    usual = Settings.read(device(kind), options.environment()).pass_tokens
    for halvings in (1, 2, 4):
        assert Settings.read(device(kind), options.environment(halvings)).pass_tokens == usual // 2**halvings


def test_what_was_chosen_is_halved() -> None:
    options = TrainerOptions(pass_tokens=600, rank_rows=64)
    assert options.environment() == {"TRELLIS_TRAINER_RANK_ROWS": "64", "TRELLIS_TRAINER_PASS_TOKENS": "600"}
    assert options.environment(1)["TRELLIS_TRAINER_PASS_TOKENS"] == "300"
    assert options.environment(20)["TRELLIS_TRAINER_PASS_TOKENS"] == "1"
