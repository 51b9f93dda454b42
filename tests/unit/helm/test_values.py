"""values.yaml says what each key is; README.md says the same, and the schema knows no other key."""

import json
from typing import Any

import yaml
from tests.chart_values import leaves, table, values_of
from tests.helm_chart import CHART

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_every_key_has_a_sentence() -> None:
    said = {one.path for one in values_of(CHART / "values.yaml")}
    for path in leaves(DEFAULTS):
        assert any(path == one or path.startswith(f"{one}.") for one in said), f"{path} has no comment"
    for one in values_of(CHART / "values.yaml"):
        assert one.said.endswith("."), one.path


def test_the_readme_has_the_table() -> None:
    expected = table(CHART / "values.yaml")
    assert expected in (CHART / "README.md").read_text(), f"helm/trellis/README.md must hold this table:\n{expected}"


def test_the_schema_names_every_key_and_nothing_is_let_in_by_default() -> None:
    for one in values_of(CHART / "values.yaml"):
        schema = SCHEMA
        for name in one.path.split("."):
            schema = resolved(schema)
            assert name in schema["properties"], one.path
            schema = schema["properties"][name]
    assert set(SCHEMA["properties"]) - {"global"} == set(DEFAULTS)
    for where, schema in objects(SCHEMA, "values"):
        assert schema.get("additionalProperties") is not None or where.endswith(FREE), f"{where} takes any key"


FREE = ("global", "affinity", "[]", "namespaceSelector", "podSelector")
"""What is in Kubernetes' own words, which Kubernetes checks; `global` is Helm's."""


def objects(schema: Any, where: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(schema, dict):
        return []
    found = [(where, schema)] if schema.get("type") == "object" else []
    for name, one in {**schema.get("properties", {}), **schema.get("definitions", {})}.items():
        found += objects(one, f"{where}.{name}")
    return (
        found + objects(schema.get("items"), f"{where}[]") + objects(schema.get("additionalProperties"), f"{where}.*")
    )


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def test_the_images_are_those_of_deploy() -> None:
    lines = (CHART.parents[1] / "deploy" / "images.env").read_text().splitlines()
    images = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert DEFAULTS["database"]["bundled"]["image"] == images["POSTGRES_IMAGE"].partition("@")[0]
