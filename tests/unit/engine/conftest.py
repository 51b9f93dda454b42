from __future__ import annotations

import pytest
from tests.workshop import Workshop, make_workshop
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def base_model(workshop: Workshop) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(workshop.facts.path).eval()
