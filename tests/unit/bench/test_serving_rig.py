"""Models as files, and systems in processes of their own."""

import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.bench.peers.own_venv import PeerMissingError
from tests.bench.peers.serving_transformers import Batches
from tests.bench.serving_rig.fleet import TRELLIS, WAYS, Fleet, Model
from tests.bench.serving_rig.registry import register
from tests.bench.serving_rig.shapes import LETTERS, Shape, text_of, write_adapters, write_base
from tests.bench.serving_rig.system import BrokenSystemError, System
from tests.bench.serving_rig.vllm_venv import find_vllm
from tests.bench.serving_rig.workload import Ask, Lengths, Workload, draw
from transformers import AutoModelForCausalLM

from trellis.bases import read_base
from trellis.tokens import ChatTokenizer

SHAPE = Shape("small", 32, 2, 2, 1, 64, 300)
LENGTHS = Lengths((3, 9), (2, 5))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")
    write_adapters(SHAPE, folder / "adapters", 4)
    return Model(write_base(SHAPE, folder / "base"), folder / "adapters", SHAPE.plain_tokens)


def workload(model: Model, adapters: Sequence[int | None]) -> Workload:
    return draw("seed", 6, LENGTHS, adapters, model.tokens, at_once=3)


def test_a_base_is_what_its_shape_says(model: Model) -> None:
    facts = read_base(str(model.base))
    assert dict(facts.linear_shapes) == dict(SHAPE.linears)
    assert facts.vocabulary_size == SHAPE.vocabulary


def test_letters_are_read_as_one_token_each(model: Model) -> None:
    tokenizer = ChatTokenizer.load(model.base)
    ids = [LETTERS.start, LETTERS.stop - 1, LETTERS.start + 3]
    assert text_of(ids) == "azd"
    assert list(tokenizer.encode_text(text_of(ids))) == ids
    assert tokenizer.decode([model.tokens[0], model.tokens[-1]])


def test_greedy_answers_never_end(model: Model) -> None:
    base = AutoModelForCausalLM.from_pretrained(model.base)
    prompt = torch.tensor([workload(model, [None]).asks[0].prompt_ids])
    assert base(prompt).logits[0, :, 2].abs().max() == 0.0


def test_adapters_are_peft_s_and_change_the_answers(model: Model) -> None:
    base = AutoModelForCausalLM.from_pretrained(model.base, dtype=torch.float32)
    prompt = torch.tensor([workload(model, [None]).asks[0].prompt_ids])
    plain = base(prompt).logits
    tuned = PeftModel.from_pretrained(base, str(model.adapters / "adapter-0001"))
    assert not torch.equal(tuned(prompt).logits, plain)


def test_registered_adapters_have_digests_of_their_own(model: Model, tmp_path: Path) -> None:
    refs = register(model.adapters, 10, "revision", "digest", tmp_path)
    assert len({ref.digest for ref in refs}) == 10
    assert register(model.adapters, 10, "revision", "digest", tmp_path) == refs
    assert (tmp_path / refs[4].key / "adapter_model.safetensors").samefile(
        model.adapters / "adapter-0000/adapter_model.safetensors"
    )


@pytest.mark.parametrize("way", list(WAYS.values()))
def test_the_peers_answer_all_of_it(model: Model, way: str) -> None:
    folders = [] if way == "base" else sorted(model.adapters.iterdir())
    asked = workload(model, [None] if way == "base" else [0, 1, 2, 3])
    timing = Batches(way, model.base, folders, "fp32").run(asked)
    assert timing.tokens == sum(ask.answer_tokens for ask in asked.asks)
    assert min(timing.ended) > 0
    assert not timing.first


@pytest.mark.slow
def test_our_engine_answers_all_of_it_in_a_process_of_its_own(model: Model, tmp_path: Path) -> None:
    with Fleet(tmp_path / "logs", 1, True, None) as fleet:
        ours = fleet.trellis(model, TRELLIS, {"count": 4, "slots": 2, "kv-mib": 4})
        for adapters in ([0, 1, 2, 3], [None, 3]):
            asked = workload(model, adapters)
            timing = ours.run(asked)
            assert timing.tokens == sum(ask.answer_tokens for ask in asked.asks)
            assert len(timing.waits) == len(asked.asks)
        usage = ours.ask("usage")
        assert (usage["blocks_used"], usage["pins"], usage["resident"]) == (0, 0, 2)
        with pytest.raises(BrokenSystemError, match="do not fit"):
            ours.run(Workload((Ask((5,) * 5000, 1),), 1))


def test_a_system_that_fails_says_why(tmp_path: Path) -> None:
    program = "import sys; print('no such model', file=sys.stderr); sys.exit(1)"
    with (
        pytest.raises(BrokenSystemError, match="no such model"),
        System("x", [sys.executable, "-c", program], {}, tmp_path / "log"),
    ):
        pass


_SPINS = """
import json, sys, threading
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
print(json.dumps({"versions": {}}), flush=True)
for line in sys.stdin: print(json.dumps({"heard": json.loads(line)["do"]}), flush=True)
"""


def state_and_ticks(pid: int) -> tuple[str, str, str]:
    """As the kernel has them: T is stopped; ticks of the CPU in the program and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return fields[0], fields[11], fields[12]


def test_a_system_of_which_nothing_is_asked_takes_no_cpu(tmp_path: Path) -> None:
    with System("x", [sys.executable, "-c", _SPINS], {}, tmp_path / "log") as system:
        assert system.ask("something") == {"heard": "something"}
        while (before := state_and_ticks(system.pid))[0] != "T":
            time.sleep(0.01)
        time.sleep(0.5)
        assert state_and_ticks(system.pid) == before
        assert system.ask("more") == {"heard": "more"}


def test_without_vllm_one_reads_why(tmp_path: Path) -> None:
    with pytest.raises(PeerMissingError, match="no virtual environment"):
        find_vllm(tmp_path / "missing", tmp_path, print)
    venv.create(tmp_path / "empty", with_pip=False)
    with pytest.raises(PeerMissingError, match="No module named 'vllm'"):
        find_vllm(tmp_path / "empty", tmp_path, print)
