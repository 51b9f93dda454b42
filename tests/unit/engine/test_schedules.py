"""Whatever comes and goes beside it, each answer is the one that PEFT gives with its adapter alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from peft import PeftModel
from tests.tiny_bank import Held
from tests.workshop import BANK_SLOTS, Workshop, make_workshop
from transformers import AutoModelForCausalLM

from trellis.engine import AdapterRef, Engine, Output, Request, RunnerLimits, Sampling
from trellis.engine.attention import NativeBackend
from trellis.engine.layer import FusedLayer
from trellis.errors import Reason
from trellis.native.linear import takes

PROMPTS: Final = ("hello", "a rather longer prompt, to differ", "?", "zwei Wörter", "0123456789 " * 5)
MOST_TOKENS: Final = 16
LINEARS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OPTIONS: Final = (
    {"rank": 4},
    {"rank": 2, "targets": ("q_proj",)},
    {"rank": 8, "targets": LINEARS},
    {"rank": 16, "targets": ("gate_proj", "down_proj")},
    {"rank": 3, "targets": ("k_proj", "o_proj", "up_proj")},
)
BASE: Final = 0
"""What is asked for when no adapter is; adapters are numbered from 1."""


@dataclass(frozen=True, slots=True)
class Reference:
    """PEFT's greedy answer, and the natural log probabilities of all tokens at each of its places."""

    token_ids: list[int]
    logprobs_TV: torch.Tensor


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a schedule, and how many steps of the engine come before the next one."""

    adapter: int
    prompt: str
    max_tokens: int
    tenant: str
    cancelled_after: int | None
    steps: int


CALLS = st.builds(
    Call,
    st.integers(0, len(OPTIONS)),
    st.sampled_from(PROMPTS),
    st.integers(1, MOST_TOKENS),
    st.sampled_from("ab"),
    st.none() | st.none() | st.integers(0, 6),
    st.integers(0, 3),
)


@pytest.fixture(scope="module", params=[8, 16], ids=["torch", "kernels"])
def workshop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """With blocks that PyTorch's attention serves, and with those of the usual size: attention and, where the CPU's products
    are the kernels' too, whole layers are theirs then."""
    return make_workshop(tmp_path_factory.mktemp("schedules"), block_tokens=request.param)


@pytest.fixture(scope="module")
def adapters(workshop: Workshop) -> list[AdapterRef | None]:
    return [None, *(workshop.adapter(100 + number, **options) for number, options in enumerate(OPTIONS))]


@pytest.fixture(scope="module")
def references(workshop: Workshop, adapters: list[AdapterRef | None]) -> dict[tuple[int, str], Reference]:
    found = {}
    for number in range(len(adapters)):
        model = AutoModelForCausalLM.from_pretrained(workshop.facts.path)
        if number != BASE:
            model = PeftModel.from_pretrained(model, str(workshop.adapter_folder(99 + number)))
        model.eval()
        for prompt in PROMPTS:
            found[number, prompt] = reference(workshop, model, prompt)
    return found


def reference(workshop: Workshop, model: torch.nn.Module, prompt: str) -> Reference:
    ids = torch.tensor([workshop.tokenizer.encode_text(prompt)])
    answer = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=MOST_TOKENS,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.no_grad():
        logits_TV = model(answer).logits[0, ids.shape[1] - 1 : -1]
    return Reference(answer[0, ids.shape[1] :].tolist(), torch.log_softmax(logits_TV.float(), -1))


def run(
    workshop: Workshop, engine: Engine, adapters: list[AdapterRef | None], calls: list[Call], held: Held
) -> tuple[dict[str, list[Output]], int]:
    """Submit the calls with so many steps between them, cancel those that are to be, and go on until all is done.

    What they were told, and the most answers that were parked at once.
    """
    found: dict[str, list[Output]] = {}
    most_parked = 0
    due: dict[int, list[str]] = {}
    now = 0

    def step() -> None:
        nonlocal now, most_parked
        now += 1
        if held.held and now % 2:  # loads take a while
            held.release()
        for name in due.pop(now, []):
            engine.cancel(name)
            found.pop(name, None)
        for output in engine.step():
            found.setdefault(output.request_id, []).append(output)
        most_parked = max(most_parked, engine.usage.parked)

    for number, call in enumerate(calls):
        ids = tuple(workshop.tokenizer.encode_text(call.prompt))
        greedy = Sampling(temperature=0.0)
        engine.submit(
            Request(
                str(number),
                ids,
                adapters[call.adapter],
                call.tenant,
                sampling=greedy,
                max_tokens=call.max_tokens,
                logprobs=3,
            )
        )
        if call.cancelled_after is not None:
            due.setdefault(now + 1 + call.cancelled_after, []).append(str(number))
        for _ in range(call.steps):
            step()
    while engine.has_work or due:
        step()
    return found, most_parked


def check(call: Call, outputs: list[Output], expected: Reference) -> None:
    ids = [token for output in outputs for token in output.token_ids]
    assert ids == expected.token_ids[: call.max_tokens]
    assert outputs[-1].is_last
    for place, output in enumerate(outputs):
        (chance,) = output.logprobs
        for token_id, logprob in [(chance.token_id, chance.logprob)] + [
            (a.token_id, a.logprob) for a in chance.alternatives
        ]:
            assert logprob == pytest.approx(float(expected.logprobs_TV[place, token_id]), abs=1e-4)


def check_at_rest(engine: Engine) -> None:
    usage = engine.usage
    assert (usage.running, usage.parked, usage.waiting, usage.kv_blocks_used, usage.pins) == (0, 0, 0, 0, 0)
    assert len(usage.resident_digests) <= BANK_SLOTS
    assert not engine._answers


def test_the_kernels_serve_blocks_of_the_usual_size(workshop: Workshop) -> None:
    is_usual = workshop.runner.cache.block_tokens == RunnerLimits().block_tokens
    assert isinstance(workshop.runner._attention._backend, NativeBackend) == is_usual
    whole = [module for module in workshop.runner._model.modules() if isinstance(module, FusedLayer)]
    assert bool(whole) == takes(torch.zeros(16, 16)), "in float32 without AVX-512 their products are PyTorch's"


def test_adapters_differ_from_the_base(references: dict[tuple[int, str], Reference]) -> None:
    assert len({tuple(references[number, "hello"].token_ids) for number in range(len(OPTIONS) + 1)}) > len(OPTIONS) - 1


CROWDS: Final = st.lists(CALLS, min_size=1, max_size=4).flatmap(
    lambda calls: st.permutations(
        [*calls, *(Call(n, PROMPTS[n % 5], MOST_TOKENS, "ab"[n % 2], None, 1) for n in range(6))]
    )
)
"""Any calls, beside long ones of the base and of five adapters."""


@pytest.mark.parametrize(("crowded", "turn_steps"), [(False, 16), (True, 2), (True, 5)])
def test_every_answer_is_what_peft_gives_alone(
    workshop: Workshop,
    adapters: list[AdapterRef | None],
    references: dict[tuple[int, str], Reference],
    crowded: bool,
    turn_steps: int,
) -> None:
    """On three slots; in a crowd answers are parked, and go on as if they had not been."""
    parked: list[bool] = []

    @settings(max_examples=20, deadline=None)
    @given(calls=CROWDS if crowded else st.lists(CALLS, min_size=1, max_size=14))
    def check_all(calls: list[Call]) -> None:
        held = Held()
        engine = workshop.engine(
            executor=held,
            max_running=6 if crowded else 4,
            max_waiting=64,
            tenant_room=100,
            step_tokens=20,
            fairness_window=60.0,
            turn_steps=turn_steps,
        )
        found, most_parked = run(workshop, engine, adapters, calls, held)
        parked.append(most_parked > 0)
        for number, call in enumerate(calls):
            outputs = found.get(str(number))
            if outputs is None:
                assert call.cancelled_after is not None
            elif outputs[-1].is_last or call.cancelled_after is None:
                check(call, outputs, references[call.adapter, call.prompt])
        check_at_rest(engine)

    check_all()
    assert not crowded or sum(parked) > len(parked) / 2


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS.filter(lambda call: call.cancelled_after is None), min_size=2, max_size=8))
def test_a_huge_neighbour_changes_no_answer(
    workshop: Workshop,
    adapters: list[AdapterRef | None],
    references: dict[tuple[int, str], Reference],
    calls: list[Call],
) -> None:
    huge = workshop.adapter(300, scale=1e30, targets=LINEARS)
    beside = [*adapters, huge]
    mixed = [Call(len(adapters), "hello", 5, "h", None, call.steps) if n % 2 else call for n, call in enumerate(calls)]
    held = Held()
    engine = workshop.engine(
        executor=held, max_running=4, max_waiting=64, tenant_room=100, step_tokens=20, fairness_window=60.0
    )
    found, _ = run(workshop, engine, beside, mixed, held)
    for number, call in enumerate(mixed):
        if call.tenant == "h":
            error = found[str(number)][-1].error
            assert error is not None
            assert error.reason == Reason.ADAPTER_INVALID
        else:
            check(call, found[str(number)], references[call.adapter, call.prompt])
    check_at_rest(engine)
