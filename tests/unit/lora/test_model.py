"""Adapters installed in a model of transformers, beside PEFT with each alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.tiny_llama import write_tiny_llama
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from trellis.bases import BaseFacts, read_base
from trellis.lora import (
    AdapterBank,
    HostAdapter,
    LoraWeights,
    Segments,
    find_groups,
    install,
    read_adapter,
    write_adapter,
)

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KINDS: dict[str, dict[str, Any]] = {
    "all": {"r": 4, "lora_alpha": 8, "target_modules": list(ALL)},
    "two": {"r": 13, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": list(ALL),
        "rank_pattern": {"v_proj": 12, "layers.1.mlp.up_proj": 2},
        "alpha_pattern": {"k_proj": 3},
    },
    "rank_stabilised": {"r": 9, "lora_alpha": 8, "target_modules": list(ALL), "use_rslora": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return read_base(str(write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny")))


def load(base: BaseFacts, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype).eval().requires_grad_(False)


def write_with_peft(base: BaseFacts, folder: Path, kind: str) -> Path:
    torch.manual_seed(len(kind))
    tuned = get_peft_model(load(base), LoraConfig(**KINDS[kind]))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    tuned.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def prepare(base: BaseFacts, model: Any, adapters: list[LoraWeights]) -> tuple[AdapterBank, list[int], Any]:
    groups = find_groups(base.linear_shapes)
    bank = AdapterBank(groups, sum(weights.rank for weights in adapters), len(adapters), model.dtype)
    slots = [bank.add(HostAdapter.pack(weights, groups, model.dtype)) for weights in adapters]
    return bank, slots, install(model, groups, bank)


@torch.inference_mode()
def test_each_row_of_a_mixed_batch_has_the_logits_of_its_adapter_alone(base: BaseFacts, tmp_path: Path) -> None:
    folders = {kind: write_with_peft(base, tmp_path / kind, kind) for kind in KINDS}
    model = load(base)
    _, slots, active = prepare(base, model, [read_adapter(folder, base, kind) for kind, folder in folders.items()])
    ids_BT = torch.randint(6, 200, (len(KINDS) + 1, 7), generator=torch.Generator().manual_seed(1))
    active.segments = Segments.of_runs([(slot, 7) for slot in [*slots, None]])
    mixed = model(ids_BT).logits
    for row, folder in enumerate(folders.values()):
        alone = PeftModel.from_pretrained(load(base), str(folder)).eval()(ids_BT[row : row + 1]).logits[0]
        torch.testing.assert_close(mixed[row], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mixed[-1], load(base)(ids_BT[-1:]).logits[0], atol=1e-4, rtol=1e-4)
    active.segments = None
    torch.testing.assert_close(model(ids_BT).logits, load(base)(ids_BT).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_bfloat16_is_near_peft_in_bfloat16(base: BaseFacts, tmp_path: Path) -> None:
    """With the weights in oneDNN's order."""
    folder = write_with_peft(base, tmp_path / "a", "all")
    model = load(base, torch.bfloat16)
    _, (slot,), active = prepare(base, model, [read_adapter(folder, base, "a")])
    ids_BT = torch.randint(6, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    active.segments = Segments.of_runs([(slot, 18)])
    alone = PeftModel.from_pretrained(load(base, torch.bfloat16), str(folder)).eval()(ids_BT).logits
    difference = (model(ids_BT).logits - alone).float()
    assert float(difference.abs().mean()) < 0.02 * float(alone.float().abs().mean())


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_peft_loads_what_is_written(base: BaseFacts, tmp_path: Path, kind: str) -> None:
    folder = write_with_peft(base, tmp_path / "peft", kind)
    weights = read_adapter(folder, base, kind)
    ours = tmp_path / "ours"
    ours.mkdir()
    write_adapter(ours, weights, "tiny")
    again = read_adapter(ours, base, kind)
    assert {m: p.rank for m, p in again.pairs.items()} == {m: p.rank for m, p in weights.pairs.items()}
    scalings = {m: p.scaling for m, p in weights.pairs.items()}
    assert {m: p.scaling for m, p in again.pairs.items()} == pytest.approx(scalings)
    ids_BT = torch.randint(6, 200, (1, 8), generator=torch.Generator().manual_seed(1))
    first = PeftModel.from_pretrained(load(base), str(folder)).eval()(ids_BT).logits
    second = PeftModel.from_pretrained(load(base), str(ours)).eval()(ids_BT).logits
    torch.testing.assert_close(second, first, atol=1e-5, rtol=1e-5)


def tiny_qwen() -> Any:
    """Whose q, k and v have a bias, and o has none."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    for name, parameter in model.requires_grad_(False).named_parameters():
        if name.endswith(".bias"):
            parameter.normal_()
    return model


@pytest.mark.parametrize("prepack", [False, True])
@torch.inference_mode()
def test_biases_and_an_input_of_each_linears_own_are_kept(prepack: bool) -> None:
    plain, model = tiny_qwen(), tiny_qwen()
    linears = {
        path: each for path, each in plain.model.named_modules(prefix="model") if isinstance(each, torch.nn.Linear)
    }
    groups = find_groups({path: (linear.out_features, linear.in_features) for path, linear in linears.items()})
    install(model, groups, AdapterBank(groups, 8, 1, torch.float32), prepack=prepack)
    ids_BT = torch.arange(12).view(2, 6)
    torch.testing.assert_close(model(ids_BT).logits, plain(ids_BT).logits, atol=1e-5, rtol=1e-5)
    first, second = torch.randn(3, 32), torch.randn(3, 32)
    for ends in (("q_proj", "k_proj", "v_proj"), ("v_proj", "q_proj", "k_proj")):
        for x, end in zip((first, second, first), ends, strict=True):
            path = f"model.layers.0.self_attn.{end}"
            torch.testing.assert_close(model.get_submodule(path)(x), linears[path](x), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_models_state_is_whole_and_nothing_is_there_twice(base: BaseFacts) -> None:
    plain, model = load(base), load(base)
    groups = find_groups(base.linear_shapes)
    bank = AdapterBank(groups, 8, 1, torch.float32)
    install(model, groups, bank)
    ours = model.state_dict()
    assert ours.keys() == plain.state_dict().keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in plain.state_dict().items())
    weights = [ours[f"model.layers.0.self_attn.{end}.weight"] for end in ("q_proj", "k_proj", "v_proj")]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    ids_BT = torch.arange(6, 14).view(1, 8)
    before = model(ids_BT).logits
    model.load_state_dict({name: tensor * 1.5 for name, tensor in ours.items()})
    assert not torch.allclose(model(ids_BT).logits, before)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_adapters_gradients_are_those_of_peft_with_it_alone(
    base: BaseFacts, tmp_path: Path, checkpointing: bool
) -> None:
    kinds = ("all", "two", "rank_stabilised")
    folders = {kind: write_with_peft(base, tmp_path / kind, kind) for kind in kinds}
    model = load(base)
    bank, slots, active = prepare(base, model, [read_adapter(folder, base, kind) for kind, folder in folders.items()])
    bank.require_gradients()
    if checkpointing:
        model.train().activation_checkpointing_enable({"use_reentrant": False})
    ids_BT = torch.randint(6, 200, (len(kinds), 7), generator=torch.Generator().manual_seed(1))
    active.segments = Segments.of_runs([(slot, 7) for slot in slots])
    losses_B = model(ids_BT).logits.square().mean((1, 2))
    losses_B.sum().backward()
    for row, (slot, folder) in enumerate(zip(slots, folders.values(), strict=True)):
        alone = PeftModel.from_pretrained(load(base), str(folder), is_trainable=True)
        alone(ids_BT[row : row + 1]).logits.square().mean().backward()
        for name, weight in alone.named_parameters():
            if "lora_A" in name:
                found = gradient_of_a(bank, slot, name.removeprefix("base_model.model.").partition(".lora_A")[0])
                torch.testing.assert_close(found, weight.grad, atol=1e-6, rtol=1e-4)


def gradient_of_a(bank: AdapterBank, slot: int, module: str) -> torch.Tensor:
    group = next(group for group in bank.groups.values() if module in group.group.parts)
    pair = group.grad_pair(slot, group.group.parts.index(module))
    assert pair is not None
    return pair[0]
