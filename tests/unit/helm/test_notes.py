"""What Helm says after an installation names objects that are there."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from tests.helm_chart import CHART, NAMESPACE, OLDEST, RELEASE, VALUES, Rendered, render, run_helm


@pytest.fixture(scope="module")
def with_notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes in an object, as Helm shows them of a real installation alone."""
    chart = tmp_path_factory.mktemp("chart") / "trellis"
    shutil.copytree(CHART, chart)
    notes = (chart / "templates" / "NOTES.txt").read_text()
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n"
    shown = '{{- define "notes" -}}' + notes + "{{- end -}}\n" + head + '  notes: {{ include "notes" . | quote }}\n'
    (chart / "templates" / "notes.yaml").write_text(shown)
    return chart


def notes_of(chart: Path, values: str, *arguments: str) -> str:
    chosen = [
        "--namespace",
        NAMESPACE,
        "--kube-version",
        OLDEST,
        "--values",
        str(CHART / "ci" / f"{values}-values.yaml"),
    ]
    done = run_helm("template", RELEASE, str(chart), *chosen, "--show-only", "templates/notes.yaml", *arguments)
    assert done.returncode == 0, done.stderr
    return str(yaml.safe_load(done.stdout)["data"]["notes"])


@pytest.mark.parametrize("values", VALUES)
def test_every_command_is_about_what_is_there(with_notes: Path, values: str) -> None:
    notes, rendered = notes_of(with_notes, values), render(values)
    assert f"kubectl --namespace {NAMESPACE} rollout status deployment/{rendered.name}-server" in notes
    tests = rendered.all("Pod")
    (patience,) = re.findall(rf"helm test {RELEASE} --namespace {NAMESPACE} --logs --timeout (\d+)s\n", notes)
    assert {one["spec"]["activeDeadlineSeconds"] for one in tests} == {int(patience)}  # helm's own is five minutes
    assert re.search(rf"port-forward service/{rendered.name} 50051", notes)
    secret, key = re.findall(r"get secret (\S+) --output jsonpath='\{\.data\.([\w-]+)\}'", notes)[0]
    assert key == "admin-key"
    assert secret == key_secret(rendered)
    assert notes.count("\n\n\n") == 0


@pytest.mark.parametrize("values", VALUES)
def test_the_next_three_commands_are_counted(with_notes: Path, values: str) -> None:
    for changes in ((), ("--set", "tests.enabled=false")):
        notes = notes_of(with_notes, values, *changes)
        assert re.search(r"\n\n3\. ", notes), "each has an empty line before it"
        steps = re.split(r"^\d\. .*:\n\n", notes.partition("\nTo call it from here")[0], flags=re.MULTILINE)[1:]
        assert [step.split()[0] for step in steps] == ["kubectl", "kubectl", "kubectl" if changes else "helm"]
        assert notes.count("\n\n\n") == 0


def test_they_say_that_kuberay_is_missing_where_it_is(with_notes: Path) -> None:
    missing = "KubeRay is not in this cluster"
    assert missing in notes_of(with_notes, "laptop")
    there = notes_of(with_notes, "laptop", "--api-versions", "ray.io/v1")
    assert missing not in there
    assert there.count("\n\n\n") == 0


def key_secret(rendered: Rendered) -> str:
    volumes = rendered.one("Deployment", f"{rendered.name}-server")["spec"]["template"]["spec"]["volumes"]
    return str(next(one["secret"]["secretName"] for one in volumes if one["name"] == "secret"))


def test_they_warn_of_what_is_for_a_trial(with_notes: Path) -> None:
    laptop, production = notes_of(with_notes, "laptop"), notes_of(with_notes, "production")
    assert "for a trial" in laptop
    assert "The API speaks plain gRPC" in laptop
    assert "for a trial" not in production
    assert "TRELLIS_CA_FILE=ca.crt" in production
    assert "pod-security.kubernetes.io/enforce=restricted" in production
    given = notes_of(with_notes, "given-secrets")
    assert "pod-security" not in given
    assert "TRELLIS_CERTIFICATE_FILE=" in given
    assert "TRELLIS_CERTIFICATE_FILE=" not in production
    assert "TRELLIS_CA_FILE" not in notes_of(with_notes, "production", "--set", "tls.jobsTrustCa=false")
