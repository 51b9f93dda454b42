"""Who trains what, and the peers that do it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from tests.bench.peers.own_venv import PeerMissingError
from tests.bench.serving_rig.system import BrokenSystemError
from tests.bench.training_rig.crowd import Crowd, Ready, compared
from tests.bench.training_rig.platform import settings
from tests.bench.training_rig.programs import Programs, WarmProcess
from tests.bench.training_rig.resident import Peak, family, resident, watched
from tests.bench.training_rig.tenant import Recipe, Task, Tuned, draw_tenants
from tests.bench.training_rig.texts import LONG, SHORT, Lengths
from tests.bench.training_rig.trl_venv import find_trl
from tests.tiny_llama import write_tiny_llama

RECIPE = Recipe(epochs=2, batch_size=3, learning_rate=1e-2)
TINY = Lengths("tiny", 16, 40)


def letters(text: str) -> int:
    return len(text.encode())


def crowd(folder: Path, count: int = 2, lines: int = 6) -> Crowd:
    return Crowd.draw(folder, count, "mixed", TINY, lines, RECIPE, letters)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


def test_a_mixed_crowd_has_all_kinds_of_adapters() -> None:
    tenants = draw_tenants(8, "mixed")
    assert {tenant.rank for tenant in tenants} == {4, 8, 16, 32}
    assert len({tenant.targets for tenant in tenants}) == 4
    assert len({tenant.seed for tenant in tenants}) == 8
    assert {(tenant.rank, tenant.targets) for tenant in draw_tenants(8, "same")} == {(8, ())}


def test_steps_are_counted_with_short_last_batches() -> None:
    assert RECIPE.steps(6) == 4
    assert RECIPE.steps(7) == 6


@pytest.mark.parametrize("lengths", [SHORT, LONG], ids=["short", "long"])
def test_lines_are_as_long_as_wanted(tmp_path: Path, lengths: Lengths) -> None:
    def words(text: str) -> int:
        return len(text.split())

    drawn = Crowd.draw(tmp_path, 2, "same", lengths, 50, RECIPE, words)
    lines = [json.loads(text)["messages"] for text in drawn.files[0].read_text().splitlines()]
    tokens = [sum(words(turn["content"]) for turn in turns) + 5 for turns in lines]
    assert lengths.low - 3 <= min(tokens) <= max(tokens) <= lengths.high
    assert drawn.files[0].read_text() != drawn.files[1].read_text()


def test_the_same_lines_are_drawn_again(tmp_path: Path) -> None:
    one, other = crowd(tmp_path / "a"), crowd(tmp_path / "b")
    assert [file.read_text() for file in one.files] == [file.read_text() for file in other.files]
    assert one.tokens == other.tokens > 0


def test_a_task_is_read_as_it_was_written(tmp_path: Path, base: Path) -> None:
    task = crowd(tmp_path).tasks(base, tmp_path / "out", 1)[1]
    read = Task.read(task.write(tmp_path / "made/task.json"))
    assert replace(read, targets=tuple(read.targets)) == task


def test_a_job_is_told_what_the_peers_are() -> None:
    tenant = draw_tenants(2, "mixed")[1]
    told = settings(tenant, RECIPE)
    assert told.lora is not None
    assert (told.lora.rank, told.lora.alpha, told.lora.target_modules) == (16, 32, ("q_proj", "v_proj"))
    assert (told.epochs, told.batch_size, told.learning_rate, told.seed) == (2, 3, 1e-2, 1)
    assert (told.warmup_ratio, told.held_out_fraction, told.max_evaluation_lines) == (0.0, 0.0, 0)


def test_unequal_work_is_told() -> None:
    one, other = (Ready(1.0, [Tuned([9.0, loss], 1.0)], 10) for loss in (3.0, 1.0))
    assert compared(one, one).startswith("equal work")
    assert compared(one, other).startswith("NOT EQUAL WORK")


@pytest.mark.slow
def test_a_program_and_a_warm_process_learn_the_same(tmp_path: Path, base: Path) -> None:
    drawn = crowd(tmp_path)
    programs = Programs.of_trainer(base, tmp_path / "out", 1, passive=True)(drawn)
    warm = WarmProcess.start(base, tmp_path / "out", tmp_path, 1, passive=True)
    with warm.system:
        again = [warm(drawn), warm(drawn)]
    assert [len(one.losses) for one in programs.tuned] == [4, 4]
    for ready in again:  # what a tenant leaves behind in the base would show in the next one's losses
        assert [one.losses for one in ready.tuned] == [pytest.approx(one.losses, rel=1e-4) for one in programs.tuned]
    with safe_open(tmp_path / "out/warm/tenant-01/adapter_model.safetensors", "pt") as tensors:
        modules = {name.split(".")[-3] for name in tensors.keys()}  # noqa: SIM118  it is no mapping
        assert modules == {"q_proj", "v_proj"}
        assert next(iter(tensors.get_slice(name).get_shape()[0] for name in tensors.keys() if "lora_A" in name)) == 16  # noqa: SIM118


def test_of_a_large_crowd_a_part_is_timed(tmp_path: Path, base: Path) -> None:
    programs = Programs(Path(sys.executable), "no.such.module", base, tmp_path, 1, passive=True, most=2)
    assert len(programs._tasks(crowd(tmp_path, 5))) == 2
    with pytest.raises(BrokenSystemError, match=r"No module named .no"):
        programs(crowd(tmp_path, 5))


def test_a_family_is_seen_with_its_memory(tmp_path: Path) -> None:
    peak = Peak()
    peak.see({1: 5 << 20, 2: 1 << 20})
    peak.see({1: 3 << 20})
    assert (peak.mib, peak.processes) == (6.0, 2)
    with watched(itself=True) as own:
        assert family(1) or family(2)
    assert own.processes >= 1
    assert resident(2**22 + 1) == 0  # there is no such process


def test_without_trl_one_reads_why(tmp_path: Path) -> None:
    with pytest.raises(PeerMissingError, match="no virtual environment"):
        find_trl(tmp_path / "missing", tmp_path, print)
