"""What the pages say that a node must have is enough for all that the chart and its Ray clusters ask for on it."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
from tests.helm_chart import CHART, Rendered, read_settings, render

from trellis.server.clusters.kuberay import manifests

ROOT: Final = CHART.parents[1]
GIB: Final = 2**30
KUBERNETES_OWN: Final = (0.95 + 0.1, 0.3 * GIB + 0.5 * GIB)
"""CPUs and bytes that kind's own pods and KubeRay's operator ask for."""
UNITS: Final = {"m": 1e-3, "": 1.0, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
Sizes = tuple[float, float]


def amount(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def of_containers(containers: list[dict[str, Any]]) -> Sizes:
    asked = [one["resources"]["requests"] for one in containers]
    return sum(amount(str(one["cpu"])) for one in asked), sum(amount(str(one["memory"])) for one in asked)


def of_cluster(spec: dict[str, Any]) -> Sizes:
    """With all the workers that it may have."""
    pods = [spec["headGroupSpec"]["template"]]
    pods += [group["template"] for group in spec["workerGroupSpecs"] for _ in range(group["maxReplicas"])]
    scaler = [spec["autoscalerOptions"]] if "autoscalerOptions" in spec else []
    return of_containers([*scaler, *(one for pod in pods for one in pod["spec"]["containers"])])


def added(*sizes: Sizes) -> Sizes:
    return sum(cpus for cpus, _ in sizes), sum(memory for _, memory in sizes)


def needs(rendered: Rendered, folder: Path) -> tuple[Sizes, Sizes]:
    """Of all that an installation runs at once, its Jobs and tests too; and what comes on top while it is upgraded."""
    settings = read_settings(rendered, folder)
    assert settings.trainers is not None
    assert settings.engines is not None
    (deployment,) = rendered.all("Deployment")
    server = of_containers(deployment["spec"]["template"]["spec"]["containers"])
    others = [of_containers(spec["containers"]) for where, _, spec in rendered.pods() if "Deployment" not in where]
    trainers = of_cluster(manifests.trainers_cluster(settings, settings.trainers)["spec"])
    engines = of_cluster(manifests.engines_service(settings, settings.engines, "{}")["spec"]["rayClusterConfig"])
    servers = [server] * int(deployment["spec"]["replicas"])
    return added(KUBERNETES_OWN, *servers, *others, trainers, engines), added(server, engines)


def said(page: str, count: int) -> list[Sizes]:
    found = re.findall(r"(\d+) CPUs and (\d+) GiB", " ".join((ROOT / page).read_text().split()))
    assert len(found) == count, page
    return [(float(cpus), float(memory) * GIB) for cpus, memory in found]


def fits(asked: Sizes, there: Sizes) -> bool:
    return asked[0] <= there[0] and asked[1] <= there[1]


@pytest.mark.parametrize("page", ["docs/kubernetes.md", "deploy/README.md"])
def test_a_laptop_is_large_enough(laptop: Rendered, tmp_path: Path, page: str) -> None:
    installed, on_top = needs(laptop, tmp_path)
    plain, roomy = said(page, 2)
    assert fits(installed, plain)
    assert fits(added(installed, on_top), roomy)
    assert not fits(added(installed, on_top), plain), "then the page need not tell the two apart"


def test_a_node_with_a_gpu_is_large_enough(tmp_path: Path) -> None:
    installed, _ = needs(render("one-gpu"), tmp_path)
    (node,) = said("helm/trellis/ci/one-gpu-values.yaml", 1)
    assert fits(installed, node)
