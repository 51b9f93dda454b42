from __future__ import annotations

import pytest
from tests.workshop import Workshop, make_workshop
from transformers import AutoModelForCausalLM

from trellis.engine import AdapterRef


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def base_model(workshop: Workshop) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(workshop.facts.path).eval()


@pytest.fixture(scope="session")
def adapters(workshop: Workshop) -> list[AdapterRef]:
    """Of other ranks and targets."""
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return [
        workshop.adapter(1),
        workshop.adapter(2, rank=2, targets=("q_proj",)),
        workshop.adapter(3, rank=8, targets=every),
    ]
