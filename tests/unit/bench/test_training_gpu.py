import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.bench.training_gpu import measure
from tests.bench.training_rig.gpu import (
    FEW,
    FULL,
    FULL_LINES,
    LLAMA_8B,
    MIXED,
    ON_A_CPU,
    OURS,
    PEERS,
    QUICK,
    base_parameters,
    expected,
    step_seconds,
)
from tests.bench.training_rig.sheet import GPU_EXPECTED

from trellis_jobs.device import Device

ROOT = Path(__file__).parents[3]


def test_a_step_takes_what_was_computed_by_hand() -> None:
    """7.5 billion weights without the embedding; the memory's speed is the limit up to some 165 tokens, launches to 740."""
    assert base_parameters(LLAMA_8B) == pytest.approx(7.5e9, rel=0.01)
    by_memory = step_seconds(LLAMA_8B, 1, launches=0.0)
    assert by_memory == step_seconds(LLAMA_8B, 160, launches=0.0) < step_seconds(LLAMA_8B, 180, launches=0.0)
    assert step_seconds(LLAMA_8B, 1) == step_seconds(LLAMA_8B, 740) < step_seconds(LLAMA_8B, 850)


def test_what_is_expected_of_each_load() -> None:
    assert expected(FULL, FEW, "sequential") == pytest.approx(8.0, rel=0.02)  # as many launches for one as for all
    assert expected(FULL, FULL_LINES, "sequential") == pytest.approx(1.0)
    assert expected(FULL, FULL_LINES, "mlora") == pytest.approx(1.0)
    assert expected(FULL, MIXED, "mlora") > 1.5  # half of its rows are padding


def test_the_page_says_what_the_arithmetic_gives() -> None:
    found = {load.name: tuple(round(expected(FULL, load, peer), 1) for peer in PEERS) for load in FULL.loads}
    assert found == GPU_EXPECTED


@pytest.mark.parametrize("sizes", [FULL, QUICK, ON_A_CPU], ids=["full", "quick", "tiny"])
def test_lines_are_drawn_as_the_load_says(sizes: object) -> None:
    for load in sizes.loads:  # type: ignore[attr-defined]
        drawn = load.draw("seed", 5, range(300, 400))
        assert [len(lines) for lines in drawn] == [load.lines] * 5
        assert all(load.low <= ids_T.numel() - 1 <= load.high for lines in drawn for ids_T in lines)
        again = load.draw("seed", 5, range(300, 400))
        assert all(one.equal(two) for a, b in zip(drawn, again, strict=True) for one, two in zip(a, b, strict=True))


def test_all_sides_do_equal_work(tmp_path: Path) -> None:
    device = Device(torch.device("cpu"), torch.float32)
    found = list(measure(ON_A_CPU, tmp_path, device, rounds=2))
    assert [one.load.name for one in found] == ["few", "mixed"]
    for one in found:
        assert all(len(one.seconds[side]) == 2 for side in (OURS, *PEERS))
        rows = {row.name: row.value for row in one.rows(ON_A_CPU)}
        apart = [value for name, value in rows.items() if "losses apart" in name]
        assert len(apart) == 2
        assert max(apart) < 1e-4
        assert rows[f"tenants3_{one.load.name}_over_mlora, median of the rounds"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to measure")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.training_gpu", "--quick", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert "no CUDA device: nothing measured\n" in done.stdout
    assert not list(tmp_path.iterdir())
