"""A tenant's broken adapter changes no other tenant's answer by a bit, in whatever places of the batch they stand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import pytest
import torch
from tests.engine_calls import alone, at_rest, drain, request
from tests.workshop import Workshop, make_workshop

from trellis.engine import Output, Request, Sampling
from trellis.errors import InvalidArgument, Reason
from trellis.native.linear import takes

LINEARS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NAMES: Final = ("one", "two", "base", "drawn")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """With blocks of 16 tokens, which the native attention takes: PyTorch's goes by how a prompt was cut."""
    if not takes(torch.zeros(16, 16)):
        pytest.skip("Without AVX-512 a row's last bits go by its place, as docs/adr/0022 says.")
    return make_workshop(tmp_path_factory.mktemp("broken"), block_tokens=16)


@pytest.fixture
def wanted(workshop: Workshop) -> list[Request]:
    """Of adapters of other ranks and targets, and of the base; their prompts are read in one chunk or in several."""
    few, all_of_them = workshop.adapter(2, rank=2, targets=("q_proj",)), workshop.adapter(3, rank=8, targets=LINEARS)
    drawn = Sampling(seed=3, temperature=0.8, top_p=0.9, repetition_penalty=1.2)
    return [
        request(workshop, "one", "hello", adapter=few, logprobs=3),
        request(workshop, "two", "a rather longer prompt, to differ", adapter=all_of_them, logprobs=20),
        request(workshop, "base", "0123456789 " * 3, logprobs=3),
        request(workshop, "drawn", "?", adapter=few, sampling=drawn, logprobs=5),
    ]


@pytest.fixture
def quiet(workshop: Workshop, wanted: list[Request]) -> Iterator[dict[str, list[Output]]]:
    """What each is answered alone, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {one.request_id: alone(workshop, one) for one in wanted}
    torch.set_num_threads(before)


@pytest.mark.parametrize("scale", [1e30, math.inf], ids=["huge", "not numbers"])
def test_no_bit_of_others_changes(
    workshop: Workshop, wanted: list[Request], quiet: dict[str, list[Output]], scale: float
) -> None:
    """Not the tokens, not their log probabilities, not those of the tokens that came close: they are what each is alone."""
    broken = request(workshop, "broken", adapter=workshop.adapter(4, scale=scale, targets=LINEARS))
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for place in range(len(wanted) + 1):
            turned = [*wanted[place:], *wanted[:place]]
            engine = workshop.engine(step_tokens=20)
            for one in [*turned[:place], broken, *turned[place:]]:
                engine.submit(one)
            found = drain(engine)
            error = found["broken"][-1].error
            assert isinstance(error, InvalidArgument)
            assert error.reason == Reason.ADAPTER_INVALID
            assert {name: found[name] for name in NAMES} == quiet, f"on {threads} threads, {place} before it"
            assert at_rest(engine)
