"""Base models told from their files."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trellis.bases import BaseModelError, BaseModelUnreachableError, read_base

CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "vocab_size": 11}


def weights(offset: float = 0.0) -> dict[str, np.ndarray]:
    shapes = {
        "model.embed_tokens.weight": (11, 4),
        "model.layers.0.self_attn.q_proj.weight": (6, 4),
        "model.layers.0.self_attn.q_proj.bias": (6,),
        "model.layers.0.mlp.down_proj.weight": (4, 8),
        "model.layers.0.input_layernorm.weight": (4,),
        "lm_head.weight": (11, 4),
    }
    return {name: np.full(shape, offset, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(CONFIG))
    (base / "tokenizer_config.json").write_text("{}")
    save_file(weights(), base / "model.safetensors")
    return base


def test_facts_of_a_folder(folder: Path) -> None:
    facts = read_base(str(folder))
    assert facts.path == folder
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.context_length == 64
    assert facts.vocabulary_size == 11
    assert facts.parameter_count == 44 + 24 + 6 + 32 + 4 + 44
    assert facts.linear_shapes == {"model.layers.0.self_attn.q_proj": (6, 4), "model.layers.0.mlp.down_proj": (4, 8)}
    assert facts.linear_names == ("down_proj", "q_proj")
    assert not facts.has_chat_template
    assert facts.revision.startswith("sha256:")


def test_the_share_of_some_linears_is_counted_in_whole_vectors(folder: Path) -> None:
    facts = read_base(str(folder))  # 10 and 12 numbers a rank, which take 16 each
    assert facts.share_of(("q_proj",)) == facts.share_of(("mlp.down_proj",)) == 0.5
    assert facts.share_of(("q_proj", "self_attn.q_proj", "down_proj")) == 1.0
    assert facts.linears("proj") == frozenset()


def test_a_relative_folder_and_a_copy_have_the_same_revision(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    assert read_base("base") == read_base(str(folder))
    assert read_base("copy").revision == read_base("base").revision


@pytest.mark.parametrize("change", ["config.json", "tokenizer_config.json", "chat_template.jinja", "weights"])
def test_every_change_changes_the_revision(folder: Path, change: str) -> None:
    before = read_base(str(folder)).revision
    if change == "weights":
        save_file(weights(1.0), folder / "model.safetensors")
    elif change == "config.json":
        (folder / change).write_text(json.dumps({**CONFIG, "max_position_embeddings": 128}))
    else:
        (folder / change).write_text('{"a": 1}')
    assert read_base(str(folder)).revision != before
    with pytest.raises(BaseModelError, match="no longer the base model that was registered"):
        read_base(str(folder), before)


def test_the_registered_revision_is_taken(folder: Path) -> None:
    facts = read_base(str(folder))
    assert read_base(str(folder), facts.revision) == facts


def test_shards_are_read_through_their_index(folder: Path) -> None:
    whole = read_base(str(folder))
    (folder / "model.safetensors").unlink()
    tensors = weights()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = read_base(str(folder))
    assert sharded.linear_shapes == whole.linear_shapes
    assert sharded.parameter_count == whole.parameter_count
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"model-2\.safetensors.*missing"):
        read_base(str(folder))


def test_an_index_can_not_lead_out_of_the_folder(folder: Path) -> None:
    index = {"weight_map": {"model.embed_tokens.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match="does not say in which files of its folder"):
        read_base(str(folder))


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_chat_template_is_found_in_both_places(folder: Path, name: str) -> None:
    (folder / name).write_text('{"chat_template": "{{ messages }}"}')
    assert read_base(str(folder)).has_chat_template


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "names no architecture"),
        ({**CONFIG, "architectures": ["BertModel"]}, "BertModel is not supported"),
        ({**CONFIG, "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported"),
        ({**CONFIG, "quantization_config": {"bits": 4}}, "quantized"),
        ({**CONFIG, "auto_map": {"AutoModel": "x.Y"}}, "code of its own"),
        ({**CONFIG, "max_position_embeddings": None}, "has no max_position_embeddings"),
        ({**CONFIG, "vocab_size": -1}, "has no vocab_size"),
        ([], "not a JSON object"),
    ],
)
def test_what_is_wrong_with_a_config_is_said(folder: Path, config: object, says: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=says):
        read_base(str(folder))


def test_missing_and_broken_files_are_said(folder: Path) -> None:
    weights_file = folder / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    with pytest.raises(BaseModelError, match="cut off"):
        read_base(str(folder))
    weights_file.rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match=r"pickle files.*not read"):
        read_base(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(BaseModelError, match="has no weights"):
        read_base(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match="can't be read as JSON"):
        read_base(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        read_base(str(folder))


def test_a_model_without_linears_is_refused(folder: Path) -> None:
    save_file({"model.embed_tokens.weight": np.zeros((11, 4), np.float32)}, folder / "model.safetensors")
    with pytest.raises(BaseModelError, match="no linear module"):
        read_base(str(folder))


@pytest.mark.parametrize("source", ["/nowhere/at/all", "../nowhere", "a b", ""])
def test_a_folder_that_is_not_there_is_said(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if source == "":
        with pytest.raises(BaseModelError):  # the present folder, which holds no model
            read_base(source)
        return
    with pytest.raises(BaseModelError, match="no folder"):
        read_base(source)


def test_a_hub_id_without_a_hub_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelUnreachableError, match=r"hub can't be reached.*local folder"):
        read_base("nobody/no-such-model")


def test_a_header_that_lies_about_its_length_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(BaseModelError, match="its header is said to have"):
        read_base(str(folder))
