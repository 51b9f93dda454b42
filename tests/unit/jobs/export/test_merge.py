"""The merged model is the base with the adapter as PEFT applies it, and not the base."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.tiny_families import FAMILIES, write_tiny_model
from tests.tiny_llama import write_tiny_llama
from tests.unit.jobs.export.conftest import ADAPTER_KEY, KEY, Exporting, logits_of, worst
from transformers import AutoModelForCausalLM, AutoTokenizer

from trellis.artifacts import ArtifactError
from trellis.exports import TASK_FILE, check_contents, read_manifest
from trellis.objects import ObjectNotFoundError
from trellis.tokens import ChatTokenizer
from trellis_jobs.export.merge import Merge
from trellis_jobs.export.run import run
from trellis_jobs.export.stop import ExportFailedError, ExportUnwantedError


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with tied embeddings, a tokenizer and a chat template."""
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


def with_tokenizer(base: Path, folder: Path) -> Path:
    """A model that has the tokenizer of another one, which the base's checks ask for."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((base / name).read_bytes())
    return folder


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_answers_as_peft_does(exporting: Exporting, base: Path, tmp_path: Path, family: str) -> None:
    model = with_tokenizer(base, write_tiny_model(tmp_path / family, FAMILIES[family]()))
    adapter = exporting.adapt(model)
    merged, manifest = exporting.run(model)
    ours, theirs = logits_of(merged), logits_of(model, adapter)
    assert worst(ours, theirs) < 1e-4
    assert worst(ours, logits_of(model)) > 0.1
    assert manifest.metrics["merged_modules"] > 0
    assert manifest.metrics["changed_share"] > 0.9


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True, "r": 3, "lora_alpha": 5},
        {"rank_pattern": {"q_proj": 2, "down_proj": 7}, "alpha_pattern": {"q_proj": 3, "o_proj": 40}},
        {"use_rslora": True, "rank_pattern": {"v_proj": 9}, "target_modules": ["v_proj", "gate_proj"]},
        {"target_modules": ["down_proj"], "layers_to_transform": [1]},
    ],
    ids=["stabilised", "patterns", "stabilised_patterns", "one_layer"],
)
def test_scalings_and_ranks_are_pefts(exporting: Exporting, base: Path, lora: dict[str, Any]) -> None:
    adapter = exporting.adapt(base, **lora)
    merged, _ = exporting.run(base)
    assert worst(logits_of(merged), logits_of(base, adapter)) < 1e-4
    assert worst(logits_of(merged), logits_of(base)) > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_is_merged_in_fp32_and_rounded_once(
    exporting: Exporting, base: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(half)
    with_tokenizer(base, half)
    adapter = exporting.adapt(half)
    merged, _ = exporting.run(half)
    ours, theirs = load_file(merged / "model.safetensors"), load_file(half / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    assert set(ours) == set(theirs)
    for name, weight in theirs.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight
        if f"{module}.lora_A.weight" in lora:
            a_RI, b_OR = lora[f"{module}.lora_A.weight"].float(), lora[f"{module}.lora_B.weight"].float()
            expected = (weight.float() + 2.0 * (b_OR @ a_RI)).to(dtype)
        assert ours[name].dtype == dtype
        close = (ours[name].float() - expected.float()).abs() <= expected.float().abs() * torch.finfo(dtype).eps
        assert bool(close.all()), name
    assert AutoModelForCausalLM.from_pretrained(merged).dtype == dtype
    assert worst(logits_of(merged, dtype="auto"), logits_of(half, adapter)) < 0.1


def test_several_files_are_read_and_written_with_an_index(exporting: Exporting, base: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(sharded, max_shard_size="20KB")
    with_tokenizer(base, sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 3
    adapter = exporting.adapt(sharded)
    merged, manifest = exporting.run(sharded, shard_bytes=60_000)
    files = sorted(path.name for path in merged.glob("*.safetensors"))
    assert 1 < len(files) < len(list(sharded.glob("*.safetensors")))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert (
        index["metadata"]["total_size"]
        == json.loads((sharded / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    )
    assert worst(logits_of(merged), logits_of(base, adapter)) < 1e-4
    for path in files:
        with safe_open(merged / path, "pt") as tensors:
            assert tensors.metadata() == {"format": "pt"}
    assert set(manifest.files) == {path.name for path in merged.iterdir()}


def test_tied_embeddings_stay_tied(exporting: Exporting, base: Path) -> None:
    exporting.adapt(base)
    merged, _ = exporting.run(base)
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(merged / "model.safetensors")


def test_tokenizer_template_and_config_come_along(exporting: Exporting, base: Path, tmp_path: Path) -> None:
    model = with_tokenizer(base, write_tiny_model(tmp_path / "licensed", FAMILIES["llama"]()))
    (model / "LICENSE").write_text("Be kind.")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    (model / "pytorch_model.bin").write_bytes(b"never")
    exporting.adapt(model)
    merged, manifest = exporting.run(model)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                 "chat_template.jinja", "LICENSE", "additional_chat_templates/tool_use.jinja"):  # fmt: skip
        assert (merged / name).read_bytes() == (model / name).read_bytes()
        assert name in manifest.files
    assert "pytorch_model.bin" not in manifest.files
    assert ChatTokenizer.load(merged).digest == ChatTokenizer.load(model).digest
    asked = [{"role": "user", "content": "Hi"}]
    texts = [AutoTokenizer.from_pretrained(one).apply_chat_template(asked, tokenize=False) for one in (merged, model)]
    assert texts[0] == texts[1]


def test_the_manifest_says_what_lies_there(exporting: Exporting, base: Path) -> None:
    exporting.adapt(base)
    exporting.task(base, adapter_digest="d" * 64, tuning_job="tenants/acme/tuningJobs/j", spec={"epochs": 2})
    made = run(exporting.store, KEY, "7.1")
    manifest = read_manifest(exporting.store, KEY)
    assert manifest == made
    check_contents(exporting.store, KEY, manifest)
    assert (manifest.adapter_digest, manifest.code_version, manifest.spec) == ("d" * 64, "7.1", {"epochs": 2})
    assert manifest.source == "tenants/acme/adapters/a"
    again = run(exporting.store, KEY, "7.1")
    assert again.digest == made.digest


def test_a_few_rows_at_a_time_give_the_same_model(
    exporting: Exporting, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = exporting.adapt(base)
    monkeypatch.setattr("trellis_jobs.export.run.Merge", partial(Merge, block_bytes=200))
    merged, _ = exporting.run(base)
    assert worst(logits_of(merged), logits_of(base, adapter)) < 1e-4


def test_an_adapter_that_rounding_takes_away_is_refused(exporting: Exporting, base: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    with_tokenizer(base, half)
    exporting.adapt(half, scale=1e-12, target_modules=["q_proj"])
    with pytest.raises(ExportFailedError, match="rounds all of it away"):
        exporting.run(half)
    assert not exporting.store.exists(f"{KEY}/manifest.json")


def test_what_a_dtype_does_not_hold_is_refused(exporting: Exporting, base: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16).save_pretrained(half)
    with_tokenizer(base, half)
    exporting.adapt(half, scale=1e6)
    with pytest.raises(ExportFailedError, match="F16 does not hold"):
        exporting.run(half)


def test_the_gate_is_passed_again(exporting: Exporting, base: Path) -> None:
    folder = exporting.adapt(base)
    weights = load_file(folder / "adapter_model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] * float("nan")}, folder / "adapter_model.safetensors")
    exporting.store.put_file(f"{ADAPTER_KEY}/adapter_model.safetensors", folder / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="NaN"):
        exporting.run(base)


def test_another_base_or_tokenizer_than_the_registered_one_is_refused(exporting: Exporting, base: Path) -> None:
    exporting.adapt(base)
    exporting.task(base, tokenizer_digest="0" * 64)
    with pytest.raises(ExportFailedError, match="no longer the registered one"):
        run(exporting.store, KEY, "1")
    exporting.task(base, base_revision="sha256:" + "0" * 64)
    with pytest.raises(ValueError, match="no longer the base model that was registered"):
        run(exporting.store, KEY, "1")


def test_an_adapter_that_is_gone_is_named(exporting: Exporting, base: Path) -> None:
    exporting.task(base)
    with pytest.raises(ObjectNotFoundError, match="adapters/one"):
        run(exporting.store, KEY, "1")


def test_what_nobody_wants_any_more_is_not_made(exporting: Exporting, base: Path) -> None:
    exporting.adapt(base)
    exporting.task(base)
    exporting.store.delete(f"{KEY}/{TASK_FILE}")
    with pytest.raises(ExportUnwantedError):
        run(exporting.store, KEY, "1")


_BIG = 48 << 20
_MEASURE = """
import resource, sys
from pathlib import Path
from typing import Any
import torch
from trellis.artifacts import AdapterFacts
from trellis_jobs.export.merge import Merge
from trellis_jobs.export.shards import plan_shards
adapter, base, out = map(Path, sys.argv[1:])
names = [f"layers.{n}.q_proj" for n in range(4)]
facts = AdapterFacts(8, 16.0, ("q_proj",), 0, 0, dict.fromkeys(names, 8), dict.fromkeys(names, 2.0))
torch.ones(8, 8) @ torch.ones(8, 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge = Merge(adapter, facts, 4 << 20)
[shard] = plan_shards([base])
with base.open("rb") as source, out.open("wb") as target:
    target.write(shard.header())
    for tensor in shard.tensors:
        merge.write(tensor, source, target.write)
merge.check_complete()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    rows, columns = _BIG // 2 // 2048, 2048
    torch.manual_seed(0)
    base = {f"layers.{n}.q_proj.weight": torch.randn(rows, columns).bfloat16() for n in range(4)}
    save_file(base, tmp_path / "base.safetensors")
    lora = {}
    for n in range(4):
        lora[f"base_model.model.layers.{n}.q_proj.lora_A.weight"] = torch.randn(8, columns)
        lora[f"base_model.model.layers.{n}.q_proj.lora_B.weight"] = torch.randn(rows, 8) * 0.1
    save_file(lora, tmp_path / "adapter.safetensors")
    paths = [str(tmp_path / name) for name in ("adapter.safetensors", "base.safetensors", "out.safetensors")]
    grown = int(subprocess.check_output([sys.executable, "-c", _MEASURE, *paths]))
    merged = load_file(tmp_path / "out.safetensors")
    name = "layers.3.q_proj"
    delta = 2.0 * lora[f"base_model.model.{name}.lora_B.weight"] @ lora[f"base_model.model.{name}.lora_A.weight"]
    expected = (base[f"{name}.weight"].float() + delta).bfloat16().float()
    torch.testing.assert_close(merged[f"{name}.weight"].float(), expected, rtol=0.01, atol=1e-6)
    assert grown < _BIG, f"{grown >> 20} MiB more for 192 MiB of weights"
