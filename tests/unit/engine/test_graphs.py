from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests import graph_cases, triton_cases
from tests.tiny_families import FAMILIES, VOCABULARY, write_tiny_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from trellis.engine.attention import IMPLEMENTATION, Formula, attach
from trellis.engine.compatibility import freeze_rotation
from trellis.engine.cuda.graphs import ROWS, FixedStep, Key, graphs_for, key_of
from trellis.lora.ops.triton_tables import WorkTables
from trellis.lora.segments import Segment

CPU = torch.device("cpu")
CASES = [graph_cases.replays, graph_cases.moves, graph_cases.leaves_prompts, graph_cases.survives, graph_cases.forgets]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("bases") / "llama", FAMILIES["llama"]()))


@pytest.fixture(scope="module")
def interpret() -> Iterator[Callable[..., Any]]:
    pytest.importorskip("triton")
    with triton_cases.interpreter() as run:
        yield run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_recorded_steps(interpret: Callable[..., Any], base: str, case: Callable[..., None]) -> None:
    interpret(case, base, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_recorded_steps_on_a_gpu(base: str, case: Callable[..., None]) -> None:
    case(base, "cuda")


def test_a_step_is_put_into_the_least_bucket_that_holds_it() -> None:
    work = WorkTables.of([Segment(0, 20, 0), Segment(20, 1, 1)], [24, 8], token_block=16)
    assert len(work.items) == 5  # two blocks of rows by two of ranks, and one
    assert key_of(21, work) == Key(24, 8, 32)
    assert key_of(1, None) == Key(1, 0, 0)
    assert key_of(ROWS[-1], WorkTables.of([], [])) == Key(256, 0, 0)


def test_padding_has_no_place_and_no_length() -> None:
    step = FixedStep.empty(Key(4, 0, 0), 8, 16, CPU)
    assert step.tables is None
    assert step.batch.layout.rows_T.tolist() == [-1] * 4
    assert step.batch.layout.positions_B.tolist() == [-1] * 4
    assert step.batch.layout.most_new == 1


class Silence:
    """Attends to nothing."""

    def __call__(self, layer: int, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula) -> Tensor:
        return q_TQD.new_empty(*q_TQD.shape[:2], v_THD.shape[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_looks_at_what_a_step_computes(family: str) -> None:
    """Which would end a recording; tensors without numbers in them say so."""
    with FakeTensorMode(), torch.inference_mode():
        model = AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation=IMPLEMENTATION)
        freeze_rotation(model)
        attach(model, Silence())
        rows = torch.zeros(8, dtype=torch.int64)
        ids = rows.unsqueeze(0)
        answer = model(input_ids=ids, position_ids=ids, use_cache=False, logits_to_keep=rows)
        assert answer.logits.shape == (1, 8, VOCABULARY)


def test_a_cpu_has_no_graphs() -> None:
    sizes = {"context_length": 8, "block_tokens": 4}
    assert graphs_for(lambda *_: torch.zeros(1), rank_of=int, **sizes, device=CPU, dtype=torch.float32) is None
