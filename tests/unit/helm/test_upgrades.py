"""From one version of the chart to the next: what Kubernetes lets nobody change stays, and what need not be replaced is not."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helm_chart import CHART, VALUES, Object, Rendered, render

CHANGES = ("labels.a=b", "image.pullPolicy=Never", "tests.training=true", "bases.fetch.retries=3")
"""Values of which none is about a volume or a name."""
FIXED = {
    "Deployment": ("selector",),
    "DaemonSet": ("selector",),
    "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"),
    "PersistentVolumeClaim": ("accessModes", "storageClassName"),
    "Service": ("clusterIP",),
}
"""Of each kind: what of its spec the API server refuses to change."""


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as if it were the next version."""
    chart = tmp_path_factory.mktemp("newer") / "trellis"
    shutil.copytree(CHART, chart)
    about = (chart / "Chart.yaml").read_text()
    changed = re.sub(r'^(version|appVersion): "?[\d.]+"?$', r'\1: "9.8.7"', about, flags=re.MULTILINE)
    assert changed.count("9.8.7") == 2
    (chart / "Chart.yaml").write_text(changed)
    return chart


def upgraded(values: str, chart: Path, *changes: str) -> Rendered:
    return render(values, "--is-upgrade", *(word for one in changes for word in ("--set", one)), chart=chart)


def by_name(rendered: Rendered) -> dict[tuple[str, str], Object]:
    return {(one["kind"], one["metadata"]["name"]): one for one in rendered.objects}


def fixed(one: Object) -> Any:
    """The part of an object that can't be changed."""
    if one["kind"] == "RoleBinding":
        return one["roleRef"]
    if one["kind"] == "Secret":
        return one["type"]
    if one["kind"] == "Job":
        return one["spec"]
    return {name: one["spec"].get(name) for name in FIXED.get(one["kind"], ())} if "spec" in one else None


@pytest.mark.parametrize("values", VALUES)
def test_what_can_not_be_changed_stays_as_it_is(
    values: str, newer: Path, rendered_of: Callable[[str], Rendered]
) -> None:
    before, after = by_name(rendered_of(values)), by_name(upgraded(values, newer, *CHANGES))
    both = before.keys() & after.keys()
    assert {"Deployment", "Service", "RoleBinding"} <= {kind for kind, _ in both}
    for key in both:
        assert fixed(after[key]) == fixed(before[key]), key


@pytest.mark.parametrize("values", VALUES)
def test_what_only_an_upgrade_makes_is_deleted_before_the_next_makes_it_anew(values: str, newer: Path) -> None:
    hooks = [one for one in upgraded(values, newer).objects if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    assert {one["kind"] for one in hooks} == {"Job", "Pod"}
    for one in hooks:
        assert one["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_a_hook_before_the_upgrade_needs_only_what_was_there_before_it(
    newer: Path, rendered_of: Callable[[str], Rendered]
) -> None:
    """Helm runs it before it makes or changes anything else."""
    there = by_name(rendered_of("laptop"))
    job = upgraded("laptop", newer).one("Job", "demo-trellis-migrate-upgrade")
    spec = job["spec"]["template"]["spec"]
    assert ("ServiceAccount", spec["serviceAccountName"]) in there
    (container,) = spec["containers"]
    for variable in container["env"]:
        if source := variable.get("valueFrom", {}).get("secretKeyRef"):
            assert source["key"] in there["Secret", source["name"]]["data"]
    assert not [one for one in spec["volumes"] if "emptyDir" not in one]


def test_a_new_version_of_the_chart_alone_does_not_end_the_trial_s_postgresql(
    newer: Path, rendered_of: Callable[[str], Rendered]
) -> None:
    name = "demo-trellis-postgresql"
    before, after = rendered_of("laptop"), upgraded("laptop", newer)
    assert after.one("StatefulSet", name)["spec"] == before.one("StatefulSet", name)["spec"]
    server = "demo-trellis-server"
    assert after.one("Deployment", server)["spec"]["template"] != before.one("Deployment", server)["spec"]["template"]


@pytest.mark.parametrize("values", VALUES)
def test_what_is_kept_over_an_uninstall_is_what_can_not_be_made_again(
    values: str, rendered_of: Callable[[str], Rendered]
) -> None:
    rendered = rendered_of(values)
    kept = {
        one["kind"]
        for one in rendered.objects
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {one["kind"] for one in rendered.objects} & {"Secret", "PersistentVolumeClaim"}
