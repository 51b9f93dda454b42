"""adapter_config.json: the settings of a PEFT adapter, of which only plain LoRA is taken."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trellis.artifacts.errors import ArtifactError

MAX_CONFIG_BYTES: Final = 1 << 20
MAX_RANK: Final = 256
_MODULE: Final = re.compile(r"\w+(?:\.\w+)*")
_READ: Final = frozenset({
    "peft_type", "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "bias",
    "modules_to_save", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "fan_in_fan_out",
})  # fmt: skip
_NO_EFFECT: Final = frozenset({
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout",
    "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying", "eva_config",
})  # fmt: skip
_RESIDUAL_STARTS: Final = ("pissa", "olora", "corda", "loftq", "lora_ga", "kasa")
"""Ways to start LoRA that change the base's weights too, so that the adapter does not fit the plain base."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The settings of a plain LoRA adapter; patterns are by module path, or the end of one."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...] | None
    """Ends of module paths; None when the file gives a regular expression, which is not evaluated."""
    every_target: bool
    """Whether every module that fits target_modules must have weights."""
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool = False
    """rsLoRA, https://arxiv.org/abs/2312.03732."""

    def targets(self, module: str) -> bool:
        """Whether the module is to be adapted."""
        return self.target_modules is None or any(_ends_with(module, end) for end in self.target_modules)

    def rank_of(self, module: str) -> int:
        """The rank at this module."""
        return next((rank for end, rank in self.rank_pattern.items() if _ends_with(module, end)), self.rank)

    def scaling_of(self, module: str) -> float:
        """What the module's LoRA is scaled by: alpha / rank, or alpha / √rank when it is rank-stabilised."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.rank_stabilised else rank)

    def alpha_of(self, module: str) -> float:
        """The alpha at this module."""
        return next((alpha for end, alpha in self.alpha_pattern.items() if _ends_with(module, end)), self.alpha)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read adapter_config.json. Raises ArtifactError (`bad_config`, `unsupported`)."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise _bad(f"it has more than {MAX_CONFIG_BYTES} bytes")
    return parse_adapter_config(path.read_bytes())


def parse_adapter_config(data: bytes) -> AdapterConfig:
    """Read the bytes of adapter_config.json. Raises ArtifactError (`bad_config`, `unsupported`)."""
    values = _read_object(data)
    _refuse_unsupported(values)
    targets = values.get("target_modules")
    return AdapterConfig(
        rank=_rank(values.get("r"), "r"),
        alpha=_alpha(values.get("lora_alpha"), "lora_alpha"),
        target_modules=_target_modules(targets),
        every_target=isinstance(targets, list)
        and not any(values.get(key) for key in ("exclude_modules", "layers_to_transform", "layers_pattern")),
        rank_pattern={_pattern(key): _rank(rank, "rank_pattern") for key, rank in _mapping(values, "rank_pattern")},
        alpha_pattern={_pattern(key): _alpha(a, "alpha_pattern") for key, a in _mapping(values, "alpha_pattern")},
        rank_stabilised=bool(values.get("use_rslora")),
    )


def _read_object(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _bad(f"it is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise _bad("it is not a JSON object")
    return values


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    if values.get("peft_type") != "LORA":
        raise _unsupported(f"peft_type is {values.get('peft_type')!r}, but only 'LORA' is served")
    if values.get("bias", "none") != "none":
        raise _unsupported(f"bias is {values['bias']!r}, but biases can't be adapted; train with bias='none'")
    if values.get("modules_to_save"):
        raise _unsupported("modules_to_save names modules that are replaced whole; train without it")
    if values.get("use_dora"):
        raise _unsupported("use_dora is on: DoRA rescales the base's own weights, which are shared; train without it")
    if values.get("fan_in_fan_out"):
        raise _unsupported("fan_in_fan_out is on, but the linears of the supported bases are not transposed")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_RESIDUAL_STARTS):
        raise _unsupported(
            f"init_lora_weights is {start!r}, which changes the base; convert it to plain LoRA when saving"
        )
    others = sorted(key for key, value in values.items() if value and key not in _READ | _NO_EFFECT)
    if others:
        raise _unsupported(f"it sets {', '.join(map(repr, others))}, but only plain LoRA is served")


def _target_modules(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str) and value:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise _bad("target_modules is not a list of names")
    return tuple(sorted(set(value)))


def _mapping(values: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    value = values.get(name) or {}
    if not isinstance(value, dict):
        raise _bad(f"{name} is not an object")
    return list(value.items())


def _pattern(key: str) -> str:
    if not _MODULE.fullmatch(key):
        raise _unsupported(f"a pattern has the key {key!r}, but only names of modules are read, no regular expressions")
    return key


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise _bad(f"{name} is {value!r}, but a rank must be a whole number from 1 to {MAX_RANK}")
    return value


def _alpha(value: Any, name: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not abs(value) < 1e9 or not math.isfinite(value) or value == 0:
        raise _bad(f"{name} is {value!r}, but must be a number other than 0")
    return float(value)


def _ends_with(module: str, end: str) -> bool:
    return module == end or module.endswith("." + end)


def _bad(what: str) -> ArtifactError:
    return ArtifactError("bad_config", f"adapter_config.json can't be read: {what}.")


def _unsupported(what: str) -> ArtifactError:
    return ArtifactError("unsupported", f"This kind of adapter is not supported: {what}.")
