"""Which objects a list or a watch asks for."""

import re
from collections.abc import Callable
from typing import Final

from tests.kube.statuses import bad_request
from trellis.server.clusters.kuberay.resources import Object

Test = Callable[[Object], bool]
_IS: Final = re.compile(r"([^=!]+)(==|=|!=)(.*)")
_IN: Final = re.compile(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)")
_FIELDS: Final = frozenset(
    {"metadata.name", "metadata.namespace", "involvedObject.name", "involvedObject.kind", "involvedObject.uid", "type"}
    | {"reason", "status.phase", "spec.nodeName"}
)


def label_test(selector: str) -> Test:
    """Raises StatusError 400."""
    tests = [_label_test(part.strip()) for part in re.split(r",(?![^(]*\))", selector) if part.strip()]
    return lambda one: all(test(one) for test in tests)


def field_test(selector: str) -> Test:
    """Raises StatusError 400."""
    tests = []
    for part in (part for part in selector.split(",") if part):
        found = _IS.fullmatch(part)
        if found is None or found[1] not in _FIELDS:
            raise bad_request(f'Unable to find "{part}" that match label selector, field selector')
        tests.append((found[1], found[2] != "!=", found[3]))
    return lambda one: all((_field(one, path) == value) is wanted for path, wanted, value in tests)


def _label_test(part: str) -> Test:
    if found := _IN.fullmatch(part):
        values = {value.strip() for value in found[3].split(",")}
        name, wanted = found[1], found[2] == "in"
        return lambda one: (_labels(one).get(name) in values) is wanted
    if found := _IS.fullmatch(part):
        name, wanted, value = found[1], found[2] != "!=", found[3]
        return lambda one: (_labels(one).get(name) == value) is wanted
    return lambda one: part in _labels(one)


def _labels(one: Object) -> dict[str, str]:
    return one["metadata"].get("labels") or {}


def _field(one: Object, path: str) -> str:
    found: object = one
    for name in path.split("."):
        found = found.get(name, "") if isinstance(found, dict) else ""
    return str(found)
