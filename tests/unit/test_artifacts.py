"""The gate that every adapter passes, and the manifest that names it."""

import contextlib
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.numpy import save_file

from trellis.artifacts import (
    ArtifactError,
    FileFacts,
    Manifest,
    check_adapter_folder,
    file_facts,
    read_safetensors_header,
)
from trellis.artifacts.values import DTYPES, LARGEST_BFLOAT16, largest
from trellis.bases import BaseFacts
from trellis.tensor_files import TensorEntry

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
FACTS = BaseFacts(
    path=Path("base"),
    revision="sha256:0",
    architecture="LlamaForCausalLM",
    context_length=64,
    parameter_count=1,
    vocabulary_size=11,
    linear_shapes={Q: (6, 4), DOWN: (4, 8)},
    has_chat_template=True,
)
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"], "bias": "none"}
Tensors = dict[str, np.ndarray]


def tensor_name(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


def tensors() -> Tensors:
    found = {}
    for module, (outputs, inputs) in FACTS.linear_shapes.items():
        found[tensor_name(module, "A")] = np.full((2, inputs), 0.5, np.float32)
        found[tensor_name(module, "B")] = np.full((outputs, 2), 0.25, np.float32)
    return found


def write(folder: Path, config: object, weights: Tensors) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "adapter", CONFIG, tensors())


def refused(folder: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as raised:
        check_adapter_folder(folder, FACTS)
    assert str(raised.value).endswith(".")
    return raised.value


def test_a_sound_adapter_passes(folder: Path) -> None:
    (folder / "README.md").write_text("An adapter.")
    (folder / "manifest.json").write_text("{}")
    facts = check_adapter_folder(folder, FACTS)
    assert (facts.rank, facts.alpha, facts.target_modules) == (2, 4.0, ("down_proj", "q_proj"))
    assert facts.parameter_count == 2 * 4 + 6 * 2 + 2 * 8 + 4 * 2
    assert facts.size_bytes == sum(
        (folder / name).stat().st_size for name in ("adapter_config.json", "adapter_model.safetensors")
    )
    assert facts.ranks == {Q: 2, DOWN: 2}
    assert facts.scalings == {Q: 2.0, DOWN: 2.0}


def test_patterns_set_rank_and_alpha_of_single_modules(tmp_path: Path) -> None:
    weights = tensors()
    weights[tensor_name(Q, "A")] = np.ones((3, 4), np.float32)
    weights[tensor_name(Q, "B")] = np.ones((6, 3), np.float32)
    config = {**CONFIG, "rank_pattern": {"self_attn.q_proj": 3}, "alpha_pattern": {"q_proj": 9}}
    facts = check_adapter_folder(write(tmp_path / "a", config, weights), FACTS)
    assert facts.rank == 3
    assert facts.ranks == {Q: 3, DOWN: 2}
    assert facts.scalings == {Q: 3.0, DOWN: 2.0}


def test_a_rank_stabilised_adapter_is_scaled_by_the_root_of_its_rank(tmp_path: Path) -> None:
    facts = check_adapter_folder(write(tmp_path / "a", {**CONFIG, "use_rslora": True}, tensors()), FACTS)
    assert facts.scalings == pytest.approx({Q: 4 / 2**0.5, DOWN: 4 / 2**0.5})


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_other_float_dtypes_pass(tmp_path: Path, dtype: Any) -> None:
    weights = {name: value.astype(dtype) for name, value in tensors().items()}
    check_adapter_folder(write(tmp_path / "a", CONFIG, weights), FACTS)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"peft_type": "IA3"}, "unsupported", "'IA3'"),
        ({"use_dora": True}, "unsupported", "use_dora is on"),
        ({"bias": "all"}, "unsupported", "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "unsupported", "modules_to_save"),
        ({"fan_in_fan_out": True}, "unsupported", "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_4"}, "unsupported", "pissa"),
        ({"something_new": {"a": 1}}, "unsupported", "'something_new'"),
        ({"rank_pattern": {".*q_proj": 3}}, "unsupported", "regular expressions"),
        ({"r": 0}, "bad_config", "r is 0"),
        ({"r": 10_000}, "bad_config", "1 to 256"),
        ({"r": True}, "bad_config", "r is True"),
        ({"lora_alpha": float("nan")}, "bad_config", "lora_alpha"),
        ({"lora_alpha": None}, "bad_config", "lora_alpha"),
        ({"target_modules": []}, "bad_config", "target_modules"),
        ({"target_modules": [1]}, "bad_config", "target_modules"),
        ({"rank_pattern": [1]}, "bad_config", "rank_pattern"),
        ({"r": 4}, "wrong_shape", "rank 4"),
        ({"target_modules": ["q_proj"]}, "unknown_tensor", "does not name in target_modules"),
    ],
)
def test_configs_that_are_not_plain_lora_are_refused(
    tmp_path: Path, change: dict[str, Any], code: str, says: str
) -> None:
    error = refused(write(tmp_path / "a", {**CONFIG, **change}, tensors()))
    assert error.code == code
    assert says in str(error)


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda weights: weights.__delitem__(name)


def put(name: str, value: Any) -> Callable[[Tensors], None]:
    return lambda weights: weights.__setitem__(name, np.asarray(value))


def fill(value: float) -> Callable[[Tensors], None]:
    def change(weights: Tensors) -> None:
        for name in weights:
            if "lora_B" in name:
                weights[name] = np.full_like(weights[name], value)

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (drop(tensor_name(Q, "B")), "missing_tensor"),
        (lambda weights: [weights.pop(tensor_name(Q, side)) for side in "AB"], "missing_tensor"),
        (lambda weights: weights.clear(), "missing_tensor"),
        (put("base_model.model.lm_head.lora_A.weight", np.ones((2, 4), np.float32)), "unknown_tensor"),
        (put("model.norm.weight", np.ones(4, np.float32)), "unknown_tensor"),
        (put(tensor_name("model.layers.9.self_attn.q_proj", "A"), np.ones((2, 4), np.float32)), "unknown_tensor"),
        (put(tensor_name(Q, "A"), np.ones((4, 2), np.float32)), "wrong_shape"),
        (put(tensor_name(Q, "A"), np.ones((2, 4), np.float64)), "wrong_dtype"),
        (put(tensor_name(Q, "A"), np.full((2, 4), np.nan, np.float32)), "not_finite"),
        (put(tensor_name(DOWN, "B"), np.full((4, 2), -np.inf, np.float16)), "not_finite"),
        (put(tensor_name(Q, "B"), np.full((6, 2), -3.4e38, np.float32)), "not_finite"),
        (put(tensor_name(Q, "B"), np.full((6, 2), 2e38, np.float32)), "not_finite"),
        (fill(0.0), "no_effect"),
        (fill(-0.0), "no_effect"),
    ],
    ids=[
        "one side of a pair",
        "one module",
        "all",
        "the head",
        "no lora",
        "no such layer",
        "transposed",
        "float64",
        "nan",
        "infinity",
        "too big for bfloat16",
        "too big once scaled",
        "zeros",
        "negative zeros",
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[[Tensors], None], code: str) -> None:
    weights = tensors()
    change(weights)
    assert refused(write(tmp_path / "a", CONFIG, weights)).code == code


def test_one_module_with_an_effect_is_enough(tmp_path: Path) -> None:
    weights = tensors()
    weights[tensor_name(Q, "B")] *= 0
    check_adapter_folder(write(tmp_path / "a", CONFIG, weights), FACTS)


def test_pickle_is_refused_by_name_and_by_content(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))
    assert refused(folder).code == "pickle"
    (folder / "adapter_model.bin").unlink()
    for content in (pickle.dumps({"a": list(range(99))}), b"PK\x03\x04" + bytes(60)):
        (folder / "adapter_model.safetensors").write_bytes(content)
        assert refused(folder).code == "pickle"


def test_only_the_two_files_are_taken(folder: Path) -> None:
    (folder / "evil.py").write_text("")
    assert refused(folder).code == "unexpected_file"
    (folder / "evil.py").unlink()
    (folder / "adapter_config.json").rename(folder.parent / "config")
    assert refused(folder).code == "missing_file"
    (folder / "adapter_config.json").symlink_to(folder.parent / "config")
    assert refused(folder).code == "unexpected_file"


def raw_file(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"123",
        struct.pack("<Q", 1 << 62) + b"{}",
        raw_file(b"not json"),
        raw_file(b"[" * 100_000),
        raw_file([]),
        raw_file(b'{"a": 1, "a": 2}'),
        raw_file({"a": 1}),
        raw_file({"a": entry(0, 4, [1], "F99")}, bytes(4)),
        raw_file({"a": entry(0, 4, [-1])}, bytes(4)),
        raw_file({"a": entry(0, 4, [True])}, bytes(4)),
        raw_file({"a": entry(0, 4, [1.0])}, bytes(4)),  # type: ignore[list-item]
        raw_file({"a": entry(0, 8, [1])}, bytes(8)),
        raw_file({"a": entry(4, 0, [1])}, bytes(4)),
        raw_file({"a": entry(0, 4, [1] * 99)}, bytes(4)),
        raw_file({"a": entry(0, 4, [1])}, bytes(3)),
        raw_file({"a": entry(0, 4, [1])}, bytes(5)),
        raw_file({"a": entry(0, 4, [1]), "b": entry(2, 6, [1])}, bytes(6)),
        raw_file({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)),
        raw_file({"a": entry(1 << 61, (1 << 61) + 4, [1])}, bytes(4)),
    ],
    ids=map(str, range(20)),
)
def test_unsound_headers_are_refused(folder: Path, content: bytes) -> None:
    (folder / "adapter_model.safetensors").write_bytes(content)
    assert refused(folder).code == "bad_header"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "nonsense"]) | JSON,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 70), min_size=2, max_size=2) | JSON,
    }
)
HEADER = st.dictionaries(
    st.sampled_from([*tensors(), "__metadata__", "x"]) | st.text(max_size=5), ENTRY | JSON, max_size=4
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(header=HEADER | JSON, data=st.binary(max_size=80))
def test_no_header_raises_anything_else(folder: Path, header: object, data: bytes) -> None:
    (folder / "adapter_model.safetensors").write_bytes(raw_file(header, data))
    with contextlib.suppress(ArtifactError):
        check_adapter_folder(folder, FACTS)


@FUZZ
@given(content=st.binary(max_size=200))
def test_no_bytes_raise_anything_else(folder: Path, content: bytes) -> None:
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError):
        check_adapter_folder(folder, FACTS)


@FUZZ
@given(config=st.dictionaries(st.sampled_from([*CONFIG, "rank_pattern", "alpha_pattern"]), JSON) | JSON)
def test_no_config_raises_anything_else(folder: Path, config: object) -> None:
    merged = {**CONFIG, **config} if isinstance(config, dict) else config
    (folder / "adapter_config.json").write_text(json.dumps(merged))
    with contextlib.suppress(ArtifactError):
        check_adapter_folder(folder, FACTS)


@FUZZ
@given(config=st.binary(max_size=100))
def test_no_config_bytes_raise_anything_else(folder: Path, config: bytes) -> None:
    (folder / "adapter_config.json").write_bytes(config)
    with pytest.raises(ArtifactError):
        check_adapter_folder(folder, FACTS)


def test_the_header_says_where_each_tensor_is(folder: Path) -> None:
    header = read_safetensors_header(folder / "adapter_model.safetensors")
    assert header.tensors.keys() == tensors().keys()
    assert max(found.end for found in header.tensors.values()) == header.file_size


def manifest() -> Manifest:
    return Manifest(
        base_model="baseModels/tiny",
        base_revision="sha256:0",
        tokenizer_digest="ab" * 32,
        files={"adapter_config.json": FileFacts("cd" * 32, 10)},
        spec={"epochs": 3, "lora": {"rank": 2}},
        metrics={"tuned": {"loss": 0.5}},
    )


def test_a_manifest_reads_back_and_keeps_its_digest() -> None:
    again = Manifest.from_json(manifest().to_json())
    assert again == manifest()
    assert again.digest == manifest().digest
    assert again.size_bytes == 10


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    values = json.loads(manifest().to_json())
    shuffled = json.dumps(dict(reversed(values.items())), indent=1)
    assert Manifest.from_json(shuffled).digest == manifest().digest


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"files": {"../x": {"sha256": "cd" * 32, "size": 1}}},
        {"files": {"a": {"sha256": "CD" * 32, "size": 1}}},
        {"files": {"a": {"sha256": "cd" * 32, "size": -1}}},
        {"files": []},
        {"base_model": 3},
        {"spec": []},
        {"metrics": None},
        {"more": 1},
    ],
)
def test_a_wrong_manifest_is_refused(change: dict[str, Any]) -> None:
    values = {**json.loads(manifest().to_json()), **change}
    with pytest.raises(ArtifactError) as raised:
        Manifest.from_json(json.dumps(values))
    assert raised.value.code == "bad_manifest"


@FUZZ
@given(value=JSON)
def test_no_manifest_raises_anything_else(value: object) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(json.dumps(value))


def test_an_error_survives_pickling(folder: Path) -> None:
    error = ArtifactError("pickle", "A sentence.")
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, str(again)) == ("pickle", "A sentence.")


def test_facts_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    facts = file_facts(tmp_path / "x")
    assert facts.size == 3
    assert facts.sha256.startswith("ba7816bf")


@pytest.mark.parametrize(
    ("dtype", "bits", "number"),
    [
        ("F32", [0x3F80_0000, 0xC020_0000, 0], 2.5),
        ("F32", [0x7F7F_FFFF, 1], float(np.finfo(np.float32).max)),
        ("F16", [0x3C00, 0xC100], 2.5),
        ("F16", [0x8001], 2.0**-24),
        ("BF16", [0x3F80, 0xC020], 2.5),
        ("BF16", [0x7F7F, 0xFF7F], LARGEST_BFLOAT16),
        ("BF16", [0x8000], 0.0),
    ],
)
def test_the_largest_magnitude_is_read_from_the_bits(dtype: str, bits: list[int], number: float) -> None:
    data = np.array(bits, dtype=DTYPES[dtype].kind).tobytes()
    assert largest(io.BytesIO(data), TensorEntry("a", dtype, (len(bits),), 0, len(data))) == number
