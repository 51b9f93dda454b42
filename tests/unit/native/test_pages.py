"""Memory in huge pages."""

import gc
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trellis.native import pages
from trellis.native.pages import zeros

MIB = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (3, 50_000), (200_003,), (40, 3, 100_000)])
def test_it_is_what_was_asked_for_and_zero(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = zeros(shape, dtype)
    assert made.shape == shape
    assert made.dtype == dtype
    assert made.is_contiguous()
    assert made.data_ptr() % 64 == 0
    assert not made.any()


def test_what_shares_pages_keeps_apart() -> None:
    made = [zeros((100_003 + number,), torch.bfloat16) for number in range(9)]
    for number, each in enumerate(made):
        each.fill_(number)
    for number, each in enumerate(made):
        assert bool((each == number).all())


def test_what_is_taken_anew_is_zero_whatever_was_there() -> None:
    for _ in range(20):
        zeros((9 * MIB,), torch.float32).fill_(1)
        assert not zeros((9 * MIB,), torch.float32).any()


def test_pages_go_back_when_their_last_tensor_is_dropped() -> None:
    before = _resident_mib()
    made = zeros((64 * MIB,), torch.float32)
    assert _resident_mib() > before + 200
    part = made[:1000]
    del made
    assert _resident_mib() > before + 200, "a view of it is there"
    del part
    gc.collect()
    assert _resident_mib() < before + 50


def test_it_may_be_a_parameter() -> None:
    weight = zeros((100_000,), torch.float32)
    weight.requires_grad = True
    (weight * 3).sum().backward()
    assert weight.is_leaf
    assert weight.grad is not None
    assert bool((weight.grad == 3).all())


def test_what_is_large_lies_in_huge_pages() -> None:
    if _huge_mode() not in {"always", "madvise"}:
        pytest.skip("this kernel gives no huge pages")
    made = zeros((48 * MIB,), torch.float32)
    found = _huge_kib(made)
    if found == 0 and _huge_free() == 0:
        pytest.skip("no huge page is free")
    assert found > 0


def test_more_than_there_is_says_so() -> None:
    with pytest.raises(MemoryError, match="no room for 268435456 MiB"):
        zeros((1 << 46,), torch.float32)


def test_small_things_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(pages, "_take", refuse)
    assert zeros((100,), torch.float32).numel() == 100


def _resident_mib() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def _huge_mode() -> str:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return ""
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else ""


def _huge_kib(tensor: Tensor) -> int:
    """Of the mapping that the tensor lies in."""
    address, inside = tensor.data_ptr(), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        ends = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if ends:
            inside = int(ends[1], 16) <= address < int(ends[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    return 0


def _huge_free() -> int:
    """Pieces of memory of 2 MiB and more that nobody uses."""
    return sum(sum(map(int, line.split()[13:])) for line in Path("/proc/buddyinfo").read_text().splitlines())
