"""The static gate: what must be true of an adapter's files before anything loads them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trellis.artifacts.adapter_config import AdapterConfig, read_adapter_config
from trellis.artifacts.errors import ArtifactError
from trellis.artifacts.values import DTYPES, LARGEST_BFLOAT16, largest
from trellis.bases import BaseFacts
from trellis.tensor_files import TensorEntry, TensorFileError, TensorHeader, read_tensor_header

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
MANIFEST_FILE: Final = "manifest.json"
ADAPTER_FILES: Final = (CONFIG_FILE, WEIGHTS_FILE)
_IGNORED: Final = frozenset({MANIFEST_FILE, "README.md"})
_PICKLED: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_TENSOR: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter that passed the gate is."""

    rank: int
    """The highest rank of its modules."""
    alpha: float
    target_modules: tuple[str, ...]
    """Last parts of the paths of the modules that it adapts, such as `q_proj`, sorted."""
    parameter_count: int
    size_bytes: int
    """Config and weights together."""
    ranks: Mapping[str, int]
    """By module path, such as `model.layers.0.self_attn.q_proj`."""
    scalings: Mapping[str, float]
    """By module path: alpha / rank, or alpha / √rank when rank-stabilised."""


def check_adapter_folder(folder: Path, facts: BaseFacts) -> AdapterFacts:
    """Check a PEFT adapter's files against the base that it was made for; memory stays small whatever their size.

    Raises ArtifactError.
    """
    _check_names(folder)
    config = read_adapter_config(folder / CONFIG_FILE)
    header = read_safetensors_header(folder / WEIGHTS_FILE)
    pairs = _pairs(header)
    for module, pair in pairs.items():
        _check_module(module, pair, config, facts)
    _check_complete(pairs, config, facts)
    _check_values(folder / WEIGHTS_FILE, pairs, config)
    return _facts(folder, config, header, pairs)


def read_safetensors_header(path: Path) -> TensorHeader:
    """The header of a safetensors file, checked to be sound. Raises ArtifactError (`pickle`, `bad_header`)."""
    try:
        return read_tensor_header(path)
    except TensorFileError as error:
        raise ArtifactError(error.code, str(error)) from None


def _check_names(folder: Path) -> None:
    entries = {entry.name: entry for entry in folder.iterdir()}
    for name, entry in sorted(entries.items()):
        if entry.suffix.lower() in _PICKLED:
            raise ArtifactError("pickle", f"{name} is a pickle file, which is never read; save it as safetensors.")
        if name not in _IGNORED and name not in ADAPTER_FILES:
            raise ArtifactError("unexpected_file", f"{name} is not a file of an adapter; only {_listed()} are taken.")
        if entry.is_symlink() or not entry.is_file():
            raise ArtifactError("unexpected_file", f"{name} is not a regular file.")
    for name in ADAPTER_FILES:
        if name not in entries:
            raise ArtifactError("missing_file", f"{name} is missing; an adapter is {_listed()}.")


def _listed() -> str:
    return " and ".join(ADAPTER_FILES)


def _pairs(header: TensorHeader) -> dict[str, dict[str, TensorEntry]]:
    """The tensors `A` and `B` of each module."""
    pairs: dict[str, dict[str, TensorEntry]] = {}
    for name, tensor in header.tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            message = f"The tensor {_short(name)} is no LoRA weight of the form 'base_model.model.….lora_A.weight'."
            raise ArtifactError("unknown_tensor", message)
        pairs.setdefault(match["module"], {})[match["side"]] = tensor
    if not pairs:
        raise ArtifactError("missing_tensor", f"{WEIGHTS_FILE} holds no tensor, so the adapter would change nothing.")
    return pairs


def _check_module(module: str, pair: Mapping[str, TensorEntry], config: AdapterConfig, facts: BaseFacts) -> None:
    shape = facts.linear_shapes.get(module)
    if shape is None:
        message = f"The adapter changes {_short(module)}, but the base model has no such linear module to adapt."
        raise ArtifactError("unknown_tensor", message)
    if not config.targets(module):
        message = f"There are weights for {module!r}, which {CONFIG_FILE} does not name in target_modules."
        raise ArtifactError("unknown_tensor", message)
    if len(pair) < 2:
        missing = "B" if "A" in pair else "A"
        raise ArtifactError("missing_tensor", f"{module!r} has no lora_{missing}, so the file is not complete.")
    rank = config.rank_of(module)
    _check_tensor(pair["A"], (rank, shape[1]), f"rank {rank} and {shape[1]} inputs")
    _check_tensor(pair["B"], (shape[0], rank), f"{shape[0]} outputs and rank {rank}")


def _check_tensor(tensor: TensorEntry, shape: tuple[int, int], why: str) -> None:
    if tensor.shape != shape:
        message = f"{_short(tensor.name)} has the shape {list(tensor.shape)}, but {why} make {list(shape)}."
        raise ArtifactError("wrong_shape", message)
    if tensor.dtype not in DTYPES:
        message = f"{_short(tensor.name)} is {tensor.dtype}, but must be one of {', '.join(sorted(DTYPES))}."
        raise ArtifactError("wrong_dtype", message)


def _check_complete(pairs: Mapping[str, object], config: AdapterConfig, facts: BaseFacts) -> None:
    if not config.every_target:
        return
    missing = [module for module in facts.linear_shapes if config.targets(module) and module not in pairs]
    if missing:
        message = f"{CONFIG_FILE} names {missing[0]!r} in target_modules, but there are no weights for it"
        raise ArtifactError("missing_tensor", f"{message} ({len(missing)} such modules); the file is not complete.")


def _check_values(path: Path, pairs: Mapping[str, Mapping[str, TensorEntry]], config: AdapterConfig) -> None:
    effective = 0
    with path.open("rb") as stream:
        for module, pair in pairs.items():
            # both are looked at in any case: each may hold a NaN
            sizes = [largest(stream, pair[side]) for side in "AB"]
            effective += all(sizes)
            _check_size(module, max(sizes), config.scaling_of(module))
    if not effective:
        message = "In every module lora_A or lora_B is all zeros, so the adapter would change nothing; train it longer."
        raise ArtifactError("no_effect", message)


def _check_size(module: str, size: float, scaling: float) -> None:
    """Whatever precision its base is served in: what overflows there would be infinite."""
    if size * max(1.0, abs(scaling)) > LARGEST_BFLOAT16:
        message = f"The weights for {module!r} go up to {size:.2g} and are scaled by {scaling:.2g}"
        raise ArtifactError("not_finite", f"{message}, which bfloat16 does not hold; train with a lower rate.")


def _facts(
    folder: Path, config: AdapterConfig, header: TensorHeader, pairs: Mapping[str, Mapping[str, TensorEntry]]
) -> AdapterFacts:
    ranks = {module: pair["A"].shape[0] for module, pair in sorted(pairs.items())}
    return AdapterFacts(
        rank=max(ranks.values()),
        alpha=config.alpha,
        target_modules=tuple(sorted({module.rsplit(".", 1)[-1] for module in pairs})),
        parameter_count=sum(tensor.size for tensor in header.tensors.values()),
        size_bytes=sum((folder / name).stat().st_size for name in ADAPTER_FILES),
        ranks=ranks,
        scalings={module: config.scaling_of(module) for module in ranks},
    )


def _short(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "…")
