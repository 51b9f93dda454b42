"""What an object must be to be taken: Kubernetes' schemas for its own kinds, and the definitions of KubeRay's."""

import base64
import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import referencing
from jsonschema.validators import Draft202012Validator  # type: ignore[import-untyped]

from tests.kube.kinds import CUSTOM
from tests.kube.statuses import bad_request, invalid
from tests.kubernetes_schemas import OLDEST, at_hand, schema_errors
from trellis.server.clusters.kuberay.resources import SECRETS, Object, Resource

_WRITTEN_BY_THE_SERVER = ("creationTimestamp", "uid", "resourceVersion", "generation", "deletionTimestamp")


def admitted(kind: Resource, one: Object) -> Object:
    """The object with its defaults. Raises StatusError 400 or 422."""
    name = str(one.get("metadata", {}).get("name", ""))
    if one.get("kind") != kind.kind or one.get("apiVersion") != kind.api_version:
        raise bad_request(f"the object provided is a {one.get('kind')} of {one.get('apiVersion')}, not a {kind.kind}")
    if not name:
        raise invalid(kind, name, ["metadata.name Required value: name or generateName is required"])
    if kind not in CUSTOM and (mistyped := core_shape_errors(one, only="type")):
        raise bad_request(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {mistyped[0]}')
    errors = _errors(kind, one)
    if errors:
        raise invalid(kind, name, errors)
    return with_defaults(kind, _plain_secret(one) if kind == SECRETS else one)


def with_defaults(kind: Resource, one: Object) -> Object:
    """What a definition says of fields that are not given."""
    schema = at_hand(kind.kind, kind.api_version) if kind in CUSTOM else None
    return _defaulted(schema, one) if schema else one


def core_shape_errors(one: Mapping[str, Any], version: str = OLDEST, only: str = "") -> list[str]:
    """What Kubernetes' schema of the kind, such as Pod, Status or PodList, forbids; unknown fields too.

    `only` names one keyword of JSON Schema.
    """
    validator = _validator(str(one["kind"]), str(one["apiVersion"]), version)
    found = [error for error in validator.iter_errors(one) if only in {"", error.validator}]
    return [f"{'.'.join(map(str, error.path))} {error.message}" for error in found]


def _errors(kind: Resource, one: Object) -> list[str]:
    if kind not in CUSTOM:
        return core_shape_errors(one)
    schema = at_hand(kind.kind, kind.api_version)
    errors = schema_errors(schema, _without_metadata(one), kind.kind) if schema else ()
    return [error.removeprefix(f"{kind.kind}.") for error in errors]


def _without_metadata(one: Object) -> Object:
    return {name: value for name, value in one.items() if name not in {"apiVersion", "kind", "metadata"}}


def _plain_secret(one: Object) -> Object:
    given = {name: base64.b64encode(text.encode()).decode() for name, text in one.get("stringData", {}).items()}
    rest = {name: value for name, value in one.items() if name != "stringData"}
    return {**rest, "data": {**one.get("data", {}), **given}}


def _defaulted(schema: Mapping[str, Any], value: Any) -> Any:
    if isinstance(value, list):
        return [_defaulted(schema.get("items", {}), item) for item in value]
    if not isinstance(value, Mapping):
        return value
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    found = {
        name: _defaulted(properties.get(name) or (others if isinstance(others, Mapping) else {}), item)
        for name, item in value.items()
    }
    missing = {name: one["default"] for name, one in properties.items() if name not in found and "default" in one}
    return {**found, **json.loads(json.dumps(missing))}


@functools.cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    folder = files("kubernetes_validate").joinpath("kubernetes-json-schema", f"v{version}.0-local-strict")
    group, _, short = ("meta", "", "v1") if kind == "Status" else api_version.rpartition("/")
    name = f"{kind.lower()}-{group.split('.')[0]}-{short}" if group else f"{kind.lower()}-{short}"
    schema = json.loads(folder.joinpath(f"{name}.json").read_text(encoding="utf-8"))
    parts = [schema, _definitions(version)]
    registry: referencing.Registry[Any] = referencing.Registry().with_resources(
        (str(part.get("$id", "")), referencing.Resource.from_contents(part)) for part in parts
    )
    return Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(version: str) -> Any:
    folder = files("kubernetes_validate").joinpath("kubernetes-json-schema", f"v{version}.0-local-strict")
    return json.loads(folder.joinpath("_definitions.json").read_text(encoding="utf-8"))
