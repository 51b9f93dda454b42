import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.bench.gpu_rig.parts import Paired
from tests.bench.gpu_rig.plot import draw_shares
from tests.bench.gpu_rig.sizes import FULL, LLAMA_8B, ON_A_CPU, QUICK, Mix, allowed_share
from tests.bench.serving_rig.workload import Lengths

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("adapters", "overhead"), [(8, 0.04), (32, 0.14), (128, 0.33)])
def test_what_memory_allows_is_as_computed_by_hand(adapters: int, overhead: float) -> None:
    """For 1024 tokens of context, every request another adapter."""
    share = allowed_share(LLAMA_8B, Lengths((1024, 1024), (0, 0)), Mix(adapters, adapters))
    assert 1 / share - 1 == pytest.approx(overhead, abs=0.015)


def test_each_pair_is_its_own_ratio() -> None:
    pair = Paired("p", "peer", [90.0, 50.0, 99.0], [100.0, 100.0, 100.0])
    assert pair.share == 0.9
    rate, share = pair.rows()
    assert (rate.value, rate.peer_value, share.value) == (90.0, 100.0, 0.9)


@pytest.mark.parametrize("sizes", [FULL, QUICK, ON_A_CPU], ids=["full", "quick", "tiny"])
def test_a_mix_has_no_more_adapters_than_requests(sizes: object) -> None:
    assert all(mix.adapters <= mix.at_once for mix in sizes.mixes)  # type: ignore[attr-defined]


def test_the_plot_shows_every_mix() -> None:
    pairs = [Paired("adapters1_of_4_over_base", "base", [1.0], [2.0]), Paired("registered8_over_2", "2", [1.0], [1.0])]
    assert draw_shares(pairs, {"adapters1_of_4": 0.9}).startswith("<?xml")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to measure")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.serving_gpu", "--quick", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "no CUDA device: nothing measured\n"
    assert not list(tmp_path.iterdir())
