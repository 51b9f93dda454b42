"""What fits on a trainer."""

import pytest
import torch
from tests.lora_mixes import GROUPS, MODULES, random_weights

from trellis.lora import AdapterBank, HostAdapter
from trellis.spec import Lora
from trellis.v1.trainer_pb2 import TrainerRoom
from trellis_jobs.device import Device
from trellis_jobs.shared.memory import Room, affordable_tokens, bank_rows, free_bytes, longest_line, values_of
from trellis_jobs.shared.settings import Settings

ROW = sum(group.row_values for group in GROUPS)
ROW_BYTES = 16 * ROW


def test_room_is_taken_and_given_back() -> None:
    room = Room(max_jobs=3, rank_rows=40, line_tokens=100, groups=GROUPS)
    assert room.take("a", Lora(12), 100) == ""
    assert room.to_proto() == TrainerRoom(jobs=2, rank_rows=28, line_tokens=100)
    message = "The adapter has 8,584 numbers; of the trainer's room for 11,840 only 8,288 are left."
    assert room.take("b", Lora(29), 100) == message
    assert room.take("b", Lora(8), 101) == "A line may have 101 tokens, but the memory here suffices for 100."
    assert room.take("b", Lora(8), 50) == room.take("c", Lora(8), 50) == ""
    assert room.take("d", Lora(1), 50) == "The trainer has 3 jobs, as many as it may."
    room.give_back("a")
    room.give_back("nobody")
    assert room.take("d", Lora(24), 50) == ""
    assert room.to_proto() == TrainerRoom(jobs=0, rank_rows=0, line_tokens=100)


def test_a_job_takes_room_for_what_it_adapts_and_the_server_hears_of_whole_rank_rows() -> None:
    room = Room(max_jobs=9, rank_rows=8, line_tokens=100, groups=GROUPS)
    narrow = Lora(16, target_modules=("q_proj", "v_proj"))
    taken = 16 * (16 + 24 + 16 + 8)
    assert room.take("a", narrow, 1) == room.take("b", narrow, 1) == ""
    assert 8 * ROW - 2 * taken == 320
    assert room.to_proto().rank_rows == 320 // ROW == 1
    assert "320 are left" in room.take("c", narrow, 1)
    assert room.take("c", Lora(8, target_modules=("q_proj",)), 1) == ""
    room.give_back("a")
    assert room.take("d", narrow, 1) == ""


@pytest.mark.parametrize("rank", [1, 3, 8, 13])
@pytest.mark.parametrize("names", [(), ("q_proj",), ("q_proj", "v_proj"), ("m.mlp.down_proj",), ("proj",)])
def test_room_is_reckoned_as_the_bank_takes_it(rank: int, names: tuple[str, ...]) -> None:
    modules = [module for module in MODULES if not names or module in names or module.rsplit(".", 1)[-1] in names]
    reckoned = values_of(Lora(rank, target_modules=names), GROUPS)
    bank = AdapterBank(GROUPS, 16, 2, torch.float32)
    free = bank.values_free
    if modules:
        bank.add(HostAdapter.pack(random_weights("a", rank, modules, seed=1), GROUPS, torch.float32))
    assert reckoned == free - bank.values_free


def test_a_bank_takes_its_share_of_memory_and_no_more_than_jobs_need() -> None:
    assert bank_rows(GROUPS, 1 << 40, 8) == 512
    assert bank_rows(GROUPS, 1 << 40, 1) == 256  # the largest adapter there may be
    assert bank_rows(GROUPS, 100 * ROW_BYTES, 8) == 40
    assert bank_rows(GROUPS, 109 * ROW_BYTES, 8) == 43
    assert bank_rows(GROUPS, 0, 8) == 1


def test_the_longest_line_is_the_longest_that_fits() -> None:
    def cost(tokens: int, longest: int) -> int:
        return 10 * tokens + longest * longest

    assert longest_line(cost, 10 * 77 + 77 * 77, 1000) == 77
    assert longest_line(cost, 10 * 77 + 77 * 77 - 1, 1000) == 76
    assert longest_line(cost, 1 << 40, 1000) == 1000
    assert longest_line(cost, 0, 1000) == 0


def test_a_pass_is_halved_until_it_fits() -> None:
    assert affordable_tokens(lambda tokens, _: tokens * 10, 1 << 30, 2048) == 2048
    assert affordable_tokens(lambda tokens, _: tokens * 10, 6000, 2048) == 512


def test_there_is_memory_here() -> None:
    assert 1 << 20 < free_bytes(torch.device("cpu")) < 1 << 50


def test_settings_are_the_devices_and_the_environments() -> None:
    device = Device(torch.device("cpu"), torch.float32)
    assert Settings.read(device, {}) == Settings(512, 2048, None, None, 600)
    found = Settings.read(device, {"TRELLIS_TRAINER_RANK_ROWS": "64", "TRELLIS_TRAINER_PASS_TOKENS": "100"})
    assert (found.rank_rows, found.pass_tokens) == (64, 100)
    assert Settings.read(device, {"TRELLIS_TRAINER_RANK_ROWS": "0"}).rank_rows is None
    with pytest.raises(ValueError, match="'-1'; give a whole number"):
        Settings.read(device, {"TRELLIS_TRAINER_PASS_TOKENS": "-1"})
