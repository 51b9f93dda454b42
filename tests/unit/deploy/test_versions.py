"""What the images, the chart and Compose name of versions is what pyproject.toml and requirements.lock have."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from tests.images.layout import ROOT

LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VALUES = yaml.safe_load((ROOT / "helm/trellis/values.yaml").read_text())
IMAGES = dict(re.findall(r"^(\w+)_IMAGE=(\S+)$", (ROOT / "deploy/images.env").read_text(), re.MULTILINE))
DOCKERFILES = sorted((ROOT / "deploy").glob("*/Dockerfile"))


def test_the_chart_names_the_locked_ray() -> None:
    """KubeRay configures the pods by it, and a head and workers of two versions don't understand each other."""
    assert VALUES["ray"]["version"] == LOCK["ray"]


def test_the_chart_installs_this_version() -> None:
    chart = yaml.safe_load((ROOT / "helm/trellis/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (PROJECT["version"], PROJECT["version"])


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_that_is_built_by_hand_is_of_this_version(dockerfile: Path) -> None:
    assert re.findall(r"^ARG VERSION=(\S+)$", dockerfile.read_text(), re.MULTILINE) == [PROJECT["version"]]


def test_paths_of_packages_are_those_of_the_images_python() -> None:
    (python,) = re.findall(r":(\d+\.\d+)", IMAGES["PYTHON"])
    assert Version(python) in SpecifierSet(PROJECT["requires-python"])
    files = [ROOT / "deploy/compose.yaml", *(ROOT / "helm/trellis/ci").glob("*.yaml")]
    named = [found for file in files for found in re.findall(r"/opt/trellis/lib/python([\d.]+)/", file.read_text())]
    assert len(named) >= 2
    assert set(named) == {python}


def test_compose_starts_the_images_of_the_list() -> None:
    compose = (ROOT / "deploy/compose.yaml").read_text()
    for name, image in re.findall(r"\$\{(\w+)_IMAGE:-([^}]+)\}", compose):
        assert name.startswith("TRELLIS") or IMAGES[name].partition("@")[0] == image, name
    assert set(re.findall(r"\$\{(\w+)_IMAGE", compose)) >= IMAGES.keys() - {"PYTHON"}


def test_pages_and_scripts_ask_for_the_same_operator() -> None:
    pages = ["docs/kubernetes.md", "docs/runbooks/upgrade.md", "helm/trellis/templates/NOTES.txt", "deploy/kind/up"]
    said = {page: set(re.findall(r"'(>=[\d.]+ <[\d.]+)'", (ROOT / page).read_text())) for page in pages}
    assert set().union(*said.values()) == {">=1.6.0 <2.0.0"}
    assert all(said.values()), said
