"""A thousand registered adapters, called at random: every answer is right, and memory stays as it is."""

from __future__ import annotations

import gc
import math
import os
import random
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import torch
from peft import PeftModel
from tests.bench.serving_rig.registry import register
from tests.tiny_adapter import write_adapter
from tests.tiny_bank import Inline
from tests.workshop import Workshop
from transformers import AutoModelForCausalLM

from trellis.artifacts import MANIFEST_FILE
from trellis.engine import (
    AdapterLoader,
    AdapterRef,
    AdapterTiers,
    Engine,
    EngineLimits,
    Request,
    Runner,
    RunnerLimits,
    Sampling,
)
from trellis.lora import AdapterBank, HostAdapter
from trellis.objects import ObjectStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
REGISTERED: Final = 1000
DISTINCT: Final = 12
"""Files of weights; of each there are many adapters with digests of their own."""
RANKS: Final = (4, 8, 16)
SLOTS: Final = 24
ROWS: Final = 256
IN_MEMORY: Final = 150
"""About so many adapters fit into the host's memory."""
PROMPTS: Final = ("hello", "zwei Wörter", "0123456789 0123456789")
TOKENS: Final = 6
GROWTH_MIB: Final = 24
"""A thousand of the adapters that are loaded take far more."""


@dataclass(frozen=True, slots=True)
class Hall:
    """An engine with room for few of its adapters."""

    engine: Engine
    bank: AdapterBank
    tiers: AdapterTiers
    refs: Sequence[AdapterRef]
    host_bytes: int


@pytest.fixture(scope="module")
def weights(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for number in range(DISTINCT):
        rank = RANKS[number % len(RANKS)]
        write_adapter(folder / f"{number:02}", workshop.facts, workshop.tokenizer.digest, seed=500 + number, rank=rank)
        (folder / f"{number:02}" / MANIFEST_FILE).unlink()
    return folder


@pytest.fixture(scope="module")
def answers(workshop: Workshop, weights: Path) -> dict[tuple[int, str], list[int]]:
    """What PEFT gives with each adapter alone."""
    found = {}
    for number in range(DISTINCT):
        model = AutoModelForCausalLM.from_pretrained(workshop.facts.path)
        tuned = PeftModel.from_pretrained(model, str(weights / f"{number:02}")).eval()
        for prompt in PROMPTS:
            ids = torch.tensor([workshop.tokenizer.encode_text(prompt)])
            said = tuned.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=TOKENS,
                eos_token_id=2,
                pad_token_id=0,
            )
            found[number, prompt] = said[0, ids.shape[1] :].tolist()
    return found


@pytest.fixture(scope="module")
def hall(workshop: Workshop, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Hall:
    folder = tmp_path_factory.mktemp("objects")
    digest = workshop.tokenizer.digest
    refs = register(weights, REGISTERED, workshop.facts.revision, digest, folder)
    runner = Runner.load(workshop.facts, RunnerLimits(kv_blocks=256, block_tokens=8, bank_rows=ROWS, max_slots=SLOTS))
    loader = AdapterLoader(ObjectStore.open(str(folder)), workshop.facts, digest, runner.bank)
    host_bytes = IN_MEMORY * 8 * runner.bank.bytes_per_row
    tiers = AdapterTiers(runner.bank, loader.load, Inline(), host_bytes)
    limits = EngineLimits(max_running=32, max_waiting=256, tenant_room=1000)
    engine = Engine(runner, workshop.tokenizer, workshop.facts.context_length, tiers, limits, lambda: 0.0)
    return Hall(engine, runner.bank, tiers, refs, host_bytes)


def call_all(
    workshop: Workshop, hall: Hall, calls: Sequence[tuple[int, str]], at_once: int = 48
) -> Iterator[tuple[int, str, list[int]]]:
    """The answers to calls of (adapter, prompt), so many of them on their way."""
    waiting = dict(enumerate(calls))
    said: dict[int, list[int]] = {}
    while waiting or hall.engine.has_work:
        while waiting and len(said) < at_once:
            number = next(iter(waiting))
            adapter, prompt = waiting.pop(number)
            said[number] = []
            ids = tuple(workshop.tokenizer.encode_text(prompt))
            greedy = Sampling(temperature=0.0)
            request = Request(
                str(number), ids, hall.refs[adapter], f"t{adapter % 7}", sampling=greedy, max_tokens=TOKENS
            )
            hall.engine.submit(request)
        for output in hall.engine.step():
            assert output.error is None, output.error
            number = int(output.request_id)
            said[number] += output.token_ids
            if output.is_last:
                yield *calls[number], said.pop(number)


def check_at_rest(hall: Hall) -> None:
    usage = hall.engine.usage
    assert (usage.running, usage.waiting, usage.kv_blocks_used, usage.pins, usage.loading) == (0, 0, 0, 0, 0)
    assert len(usage.resident_digests) == hall.bank.slots_used <= SLOTS
    values = [hall.bank.slot_range(resident.slot)[1] for resident in hall.tiers._residents.values()]
    assert hall.bank.values_free == hall.bank.size - sum(values)
    assert usage.bank_rows_used == math.ceil(sum(values) / hall.bank.row_values) <= ROWS
    assert hall.tiers.host_bytes <= hall.host_bytes
    held = {id(adapter.blob) for adapter in hall.tiers._host.values()}
    own = {ref.digest for ref in hall.refs}
    alive = [found for found in gc.get_objects() if type(found) is HostAdapter and found.digest in own]
    assert len([adapter for adapter in alive if id(adapter.blob) not in held]) <= 1, "dropped adapters are kept"


def resident_mib() -> float:
    return int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def test_each_of_a_thousand_adapters_gives_its_own_answer_in_flat_memory(
    workshop: Workshop, hall: Hall, answers: dict[tuple[int, str], list[int]]
) -> None:
    assert len({tuple(answers[number, PROMPTS[0]]) for number in range(DISTINCT)}) > DISTINCT // 2
    chance = random.Random(11)
    everyone = [(number, chance.choice(PROMPTS)) for number in chance.sample(range(REGISTERED), REGISTERED)]
    for adapter, prompt, said in call_all(workshop, hall, everyone):
        assert said == answers[adapter % DISTINCT, prompt], (adapter, prompt)
    check_at_rest(hall)

    before = resident_mib()
    again = [(chance.randrange(REGISTERED), chance.choice(PROMPTS)) for _ in range(REGISTERED)]
    for adapter, prompt, said in call_all(workshop, hall, again):
        assert said == answers[adapter % DISTINCT, prompt], (adapter, prompt)
    check_at_rest(hall)
    assert resident_mib() - before < GROWTH_MIB


def test_the_popular_ones_stay(workshop: Workshop, hall: Hall) -> None:
    chance = random.Random(12)
    popular = range(8)
    for _ in range(3):
        calls = [(chance.choice(popular), PROMPTS[0]) for _ in range(40)]
        calls[::10] = [(chance.randrange(100, REGISTERED), PROMPTS[0]) for _ in calls[::10]]
        for _ in call_all(workshop, hall, calls, at_once=8):
            pass
    resident = set(hall.engine.usage.resident_digests)
    assert {hall.refs[number].digest for number in popular} <= resident
    check_at_rest(hall)
