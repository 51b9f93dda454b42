"""docs/kubernetes.md names every trouble, every key of a pod, and only values that there are."""

import re
from dataclasses import fields
from pathlib import Path

import yaml

from trellis.server.clusters.kuberay.settings import PodSettings
from trellis.server.domain.run_trouble import TroubleCode

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
VALUES = yaml.safe_load((ROOT / "helm" / "trellis" / "values.yaml").read_text())


def test_every_trouble_has_its_row() -> None:
    assert re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE) == [code.value for code in TroubleCode]


def test_every_key_of_a_pod_is_named() -> None:
    for field in fields(PodSettings):
        first, *others = field.name.split("_")
        assert f"`{first}{''.join(map(str.capitalize, others))}`" in PAGE, field.name


def test_every_value_that_is_named_is_there() -> None:
    named = re.findall(rf"`((?:{'|'.join(VALUES)})\.[a-zA-Z.]+)", PAGE)
    assert len(named) > 15
    for path in named:
        value = VALUES
        for name in path.rstrip(".").split("."):
            assert name in value, path
            value = value[name]
