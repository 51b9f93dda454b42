"""The names of a DeepSpeed config that are checked in, against those that the installed DeepSpeed asks for."""

import os
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("DS_ACCELERATOR", os.environ.get("DS_ACCELERATOR", "cpu"))
    from deepspeed.runtime import config as deepspeed_config
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig
from pydantic import BaseModel

from trellis.deepspeed_config import DECIDED_KEYS, KNOWN_KEYS, UNUSED_KEYS, wrong_keys

MODELS: Mapping[str, type[BaseModel]] = {
    "zero_optimization": DeepSpeedZeroConfig,
    "comms_logger": CommsLoggerConfig,
    "compile": CompileConfig,
    "timers.throughput": DeepSpeedThroughputTimerConfig,
}
READ = ("activation_checkpointing", "aio", "checkpoint", "data_types", "flops_profiler", "timers")
"""Sections without a model: DeepSpeed asks for one name after the other."""
GONE = frozenset(deepspeed_config._REMOVED_TOP_LEVEL_CONFIG_KEYS)
"""It asks for these to say that they are no more."""
LEAST = {"train_micro_batch_size_per_gpu": 1}


class Asked(dict[str, Any]):
    """A section that remembers for what it was asked."""

    def __init__(self, values: Mapping[str, Any] = {}) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.names.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)

    def keys(self) -> Any:  # `name in config.keys()` is one of the ways in which DeepSpeed asks
        return self

    def __deepcopy__(self, _: object) -> "Asked":
        return self


def asked(section: str = "") -> set[str]:
    inner = Asked({"enabled": True} if section != "timers" else {})
    given = Asked({**LEAST, section: inner} if section else LEAST)
    deepspeed_config.DeepSpeedConfig(given)
    return inner.names if section else given.names


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel] | None]]:
    """Names as they are documented, but for old ones, and the model of each that is a section."""
    for name, field in model.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("deprecated"):
            continue
        kinds = (field.annotation, *typing.get_args(field.annotation))
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        yield field.alias or name, next(iter(sections), None)


def said(above: str, known: Mapping[str, Any]) -> set[str]:
    """All names of a section that we have a word for."""
    prefix = f"{above}." if above else ""
    paths = [key for key in DECIDED_KEYS | UNUSED_KEYS if key.startswith(prefix)]
    return {*known, *(path.removeprefix(prefix) for path in paths if "." not in path.removeprefix(prefix))}


def check(model: type[BaseModel], known: Mapping[str, Any], above: str) -> None:
    fields = dict(fields_of(model))
    assert said(above, known) == fields.keys(), above
    for name, section in fields.items():
        if section is not None and f"{above}.{name}" not in UNUSED_KEYS:
            check(section, known[name], f"{above}.{name}")


@pytest.mark.parametrize("path", MODELS)
def test_sections_with_a_model_have_its_fields(path: str) -> None:
    known: Any = KNOWN_KEYS
    for name in path.split("."):
        known = known[name]
    check(MODELS[path], known, path)


def test_the_names_are_those_that_deepspeed_asks_for() -> None:
    assert said("", KNOWN_KEYS) == (asked() - GONE) | {"amp"}


@pytest.mark.parametrize("section", READ)
def test_sections_without_a_model_have_what_deepspeed_asks_for(section: str) -> None:
    assert said(section, KNOWN_KEYS[section]) == asked(section)


def test_what_is_known_deepspeed_takes() -> None:
    given = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu", "pin_memory": "auto"}}}
    assert list(wrong_keys(given)) == []
    assert deepspeed_config.DeepSpeedConfig({**LEAST, **given}).zero_config.offload_param.device == "cpu"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"zero_optimisation": {}}, "'zero_optimisation'; 'zero_optimization' is the nearest name."),
        ({"zero_optimization": {"overlap_com": True}}, "'zero_optimization.overlap_comm' is the nearest name."),
        ({"zero_optimization": {"offload_param": {"devise": "cpu"}}}, "'zero_optimization.offload_param.device'"),
        ({"stage": 3}, "'stage'; it belongs into 'zero_optimization'."),
        ({"zero_optimization": {"wall_clock_breakdown": True}}, "it belongs to no section."),
        ({"xyz": 1}, "DeepSpeed has no 'xyz'."),
        ({"zero_optimization": {"compute_grad_norm": False}}, "decided by the job's own settings"),
        ({"gradient_allreduce_op": "sum"}, "decided by the job's own settings"),
        ({"flops_profiler": {"enabled": True, "output_file": "/x"}}, "'flops_profiler.output_file' is nothing that"),
        ({"wandb": {"enabled": True}}, "'wandb' is nothing that jobs use"),
        ({"aio": 3}, "'aio' is no JSON object."),
        ({"y" * 1000: 1}, "yyy'."),
    ],
)
def test_what_is_wrong_is_said_with_what_may_be_meant(given: dict[str, Any], words: str) -> None:
    (sentence,) = wrong_keys(given)
    assert words in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 200
