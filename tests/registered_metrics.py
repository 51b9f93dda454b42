"""Every metric that the code makes, with its labels: what dashboards and alerts may ask for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import prometheus_client
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from ray.serve import metrics as ray_metrics

import trellis.server.bootstrap
import trellis.server.main
from trellis.serving.metrics import EngineMetrics

assert trellis.server.bootstrap
assert trellis.server.main
TARGET = frozenset({"namespace", "instance", "job", "pod", "service", "container"})
"""Labels that Prometheus gives to all that it finds on a target."""
RAY = frozenset({"application", "deployment", "replica"})
"""Labels that Ray gives to an engine's metrics, of which people ask."""
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
_NAME = re.compile(r"\b(?:ray_)?trellis[_:][a-zA-Z0-9_:]+")
_MATCHERS = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\{([^{}]*)\}")
_LABEL = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an expression asks for."""

    names: frozenset[str]
    matched: tuple[tuple[str, frozenset[str]], ...]
    """Labels in braces, with the series before them."""
    grouped: frozenset[str]


def asked(expr: str) -> Asked:
    """The series and labels of PromQL, whose strings are emptied first."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    matched = tuple((name, frozenset(_LABEL.findall(inside))) for name, inside in _MATCHERS.findall(bare))
    grouped = {label.strip() for found in _GROUPED.findall(bare) for label in found.split(",")}
    return Asked(frozenset(_NAME.findall(bare)), matched, frozenset(grouped))


def registered() -> dict[str, frozenset[str]]:
    """By the name of a series: the labels that it may have."""
    found = dict(_of_servers())
    for name, kind, labels in _of_engines():
        for part in _PARTS[kind]:
            extra = {"le"} if part == "_bucket" else set()
            found[f"ray_{name}{part}"] = frozenset({*labels, *extra}) | TARGET | RAY
    return found


def _of_servers() -> Iterator[tuple[str, frozenset[str]]]:
    collectors = set(REGISTRY._collector_to_names)
    for collector in collectors:
        if isinstance(collector, MetricWrapperBase) and collector._name.startswith("trellis_"):
            for part in _PARTS[collector._type]:
                extra = {"le"} if part == "_bucket" else set()
                yield f"{collector._name}{part}", frozenset({*collector._labelnames, *extra}) | TARGET
        elif not isinstance(collector, MetricWrapperBase):
            for family in collector.collect():
                if family.name.startswith("trellis_"):
                    labels = {label for sample in family.samples for label in sample.labels}
                    yield family.name, frozenset(labels) | TARGET


def _of_engines() -> list[tuple[str, str, tuple[str, ...]]]:
    made: list[tuple[str, str, tuple[str, ...]]] = []

    def note(kind: str) -> Any:
        def make(name: str, _said: str, tag_keys: tuple[str, ...] = (), **_: Any) -> Any:
            made.append((name, kind, tag_keys))

        return make

    kinds = {"Counter": note("counter"), "Gauge": note("gauge"), "Histogram": note("histogram")}
    with mock.patch.multiple(ray_metrics, **kinds):
        EngineMetrics()
    return made


assert prometheus_client
