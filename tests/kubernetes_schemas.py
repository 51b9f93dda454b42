"""Whether an object is one that Kubernetes would take: the schemas of its own kinds, and of those that others define."""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from kubernetes_validate import ValidationError, utils, validate  # type: ignore[import-untyped]

OLDEST: Final = "1.33"
NEWEST: Final = "1.37"
"""The supported versions of Kubernetes."""
_SHARED: Final = Path(__file__).parents[2] / "shared" / "k8s"
CRDS: Final = (_SHARED / "crds", _SHARED / "crds-kueue")
utils.schema_contents = functools.cache(utils.schema_contents)  # it reads megabytes for each object otherwise
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "object": Mapping,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def definition(kind: str, api_version: str) -> dict[str, Any]:
    """The schema of a kind from its CustomResourceDefinition; skips the test where none is at hand."""
    found = at_hand(kind, api_version)
    if found is None:
        pytest.skip(f"the definition of {kind} in {api_version} is not at hand")
    return found


def at_hand(kind: str, api_version: str) -> dict[str, Any] | None:
    """The same, or None."""
    return _definition(kind).get(api_version)


def custom_errors(document: Mapping[str, Any]) -> list[str]:
    """What of the object its CustomResourceDefinition forbids; a field that it does not know is an error too."""
    schema = definition(document["kind"], document["apiVersion"])
    rest = {name: value for name, value in document.items() if name not in {"apiVersion", "kind", "metadata"}}
    return list(schema_errors(schema, rest, document["kind"]))


def core_errors(document: Mapping[str, Any]) -> list[str]:
    """What the oldest and the newest supported Kubernetes forbid of an object of a kind of its own."""
    errors = []
    for version in (OLDEST, NEWEST):
        try:
            validate(document, version, strict=True)
        except ValidationError as error:
            errors.append(f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
    return errors


def template_errors(template: Mapping[str, Any]) -> list[str]:
    """The same of a pod's template."""
    return core_errors({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": template})


def schema_errors(schema: Mapping[str, Any], value: object, where: str) -> Iterator[str]:
    """What a structural schema (OpenAPI 3, as Kubernetes has it) forbids of a value, each with its place."""
    if value is None:
        if not schema.get("nullable"):
            yield f"{where} must not be null"
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield f"{where} must be a whole number or a text, not {value!r}"
            return
    elif (kind := schema.get("type")) and not _is(kind, value):
        yield f"{where} must be of type {kind}, not {value!r}"
        return
    yield from _plain_errors(schema, value, where)
    if isinstance(value, Mapping):
        yield from _mapping_errors(schema, value, where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from schema_errors(schema.get("items", {}), item, f"{where}[{index}]")


def _is(kind: str, value: object) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _plain_errors(schema: Mapping[str, Any], value: Any, where: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} must be one of {schema['enum']}, not {value!r}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where} does not match {schema['pattern']}: {value!r}"
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        yield f"{where} is longer than {schema['maxLength']}"
    if isinstance(value, int) and value < schema.get("minimum", value):
        yield f"{where} must be at least {schema['minimum']}, not {value}"
    if isinstance(value, int) and value > schema.get("maximum", value):
        yield f"{where} must be at most {schema['maximum']}, not {value}"
    if isinstance(value, list) and len(value) < schema.get("minItems", 0):
        yield f"{where} must have {schema['minItems']} items"


def _mapping_errors(schema: Mapping[str, Any], value: Mapping[str, Any], where: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}.{name} is missing"
    anything = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties") is True
    others = schema.get("additionalProperties") or None
    # Of metadata a definition says nothing where Kubernetes checks it by itself.
    is_opaque = not properties and others is None and where.endswith(".metadata")
    for name, item in value.items():
        if name in properties:
            yield from schema_errors(properties[name], item, f"{where}.{name}")
        elif isinstance(others, Mapping):
            yield from schema_errors(others, item, f"{where}.{name}")
        elif not anything and not is_opaque:
            yield f"{where}.{name} is not known"


@functools.cache
def _definition(kind: str) -> dict[str, dict[str, Any]]:
    """By API version."""
    for path in (path for folder in CRDS if folder.is_dir() for path in folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if f"    kind: {kind}\n" in text:  # read alone: these files are long
            spec = yaml.load(text, Loader=_loader())["spec"]
            versions = spec["versions"]
            return {f"{spec['group']}/{v['name']}": v["schema"]["openAPIV3Schema"] for v in versions}
    return {}


def _loader() -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
