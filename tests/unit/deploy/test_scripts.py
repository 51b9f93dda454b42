"""The scripts that drive docker, kind and helm: what they ask of those programs, which write down what they were asked."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.images.layout import ROOT

DIGEST = "sha256:" + "ab" * 32
ANSWERS = {
    "docker": f'case "$*" in *imagetools*) echo "${{DIGEST-{DIGEST}}}";; "image inspect"*) echo "{DIGEST}";; esac\n',
    "kind": '[ "$1 $2" != "get clusters" ] || echo "${CLUSTERS-}"\n',
    "kubectl": "",
    "helm": "",
}


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Stand-ins for what a machine for tests does not have; each adds what it was asked to `asked`."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, answer in ANSWERS.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path / "asked"}"\n{answer}')
        (folder / name).chmod(0o755)
    return folder


def run(script: str, tools: Path, *arguments: str, root: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{tools}:/usr/bin:/bin", **more}
    command = [str(root / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def asked(tools: Path, program: str) -> list[str]:
    lines = (tools.parent / "asked").read_text().splitlines()
    return [line for line in lines if line.startswith(f"{program} ")]


def test_both_images_are_built_over_the_repository_and_loaded(tools: Path) -> None:
    done = run("scripts/build-images", tools, "--cpu")
    assert done.returncode == 0, done.stderr
    server, ray = (line for line in asked(tools, "docker") if "buildx build" in line)
    assert "--load" in server
    assert "--sbom" not in server
    assert "--tag trellis-server:local --file deploy/server/Dockerfile ." in server
    assert "TORCH_INDEX" not in server
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in ray
    built_with = set(re.findall(r"--build-arg (\w+)=", ray))
    known = set(re.findall(r"^ARG (\w+)", (ROOT / "deploy/ray/Dockerfile").read_text(), re.MULTILINE))
    assert built_with == known


def test_what_is_pushed_has_a_bill_of_materials_and_the_version_as_its_tag(tools: Path) -> None:
    assert run("scripts/build-images", tools, "--push", "--registry", "ghcr.io/example/", "server").returncode == 0
    (line,) = (line for line in asked(tools, "docker") if "buildx build" in line)
    assert "--push --sbom=true --provenance=mode=max" in line
    assert re.search(r"--tag ghcr\.io/example/trellis-server:\d+\.\d+\.\d+ ", line)


def test_an_image_that_there_is_not_is_refused(tools: Path) -> None:
    done = run("scripts/build-images", tools, "sever")
    assert done.returncode == 2
    assert "there is no option or image sever" in done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name in ("scripts/pin-images", "deploy/images.env"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


def test_images_are_pinned_once(tools: Path, repository: Path) -> None:
    file = repository / "deploy/images.env"
    before = file.read_text()
    assert run("scripts/pin-images", tools, "--check", root=repository).returncode == 1
    assert file.read_text() == before
    assert run("scripts/pin-images", tools, root=repository).returncode == 0
    pinned = [line for line in file.read_text().splitlines() if "_IMAGE=" in line]
    assert all(line.endswith(f"@{DIGEST}") for line in pinned)
    assert [line.partition("@")[0] for line in pinned] == re.findall(r"^\w+_IMAGE=[^@\s]+", before, re.MULTILINE)
    assert "Not pinned" not in file.read_text()
    assert run("scripts/pin-images", tools, "--check", root=repository).returncode == 0


def test_what_is_no_digest_is_not_written(tools: Path, repository: Path) -> None:
    before = (repository / "deploy/images.env").read_text()
    done = run("scripts/pin-images", tools, root=repository, DIGEST="no such manifest")
    assert done.returncode == 1
    assert "has no digest" in done.stderr
    assert (repository / "deploy/images.env").read_text() == before


def test_a_laptop_s_cluster_is_made_once(tools: Path) -> None:
    first = run("deploy/kind/up", tools)
    assert first.returncode == 0, first.stderr
    assert len([line for line in asked(tools, "kind") if "create cluster" in line]) == 1
    assert run("deploy/kind/up", tools, CLUSTERS="trellis").returncode == 0
    assert len([line for line in asked(tools, "kind") if "create cluster" in line]) == 1
    loaded = {re.findall(r"trellis-\w+:[\w-]+", line)[0] for line in asked(tools, "kind") if "load" in line}
    assert loaded == {"trellis-server:local-abababababab", "trellis-ray:local-abababababab"}


def test_the_chart_takes_what_the_script_sets(tools: Path) -> None:
    """helm itself renders the chart with the very options, where helm and the chart are there."""
    assert run("deploy/kind/up", tools).returncode == 0
    (line,) = (line for line in asked(tools, "helm") if " helm/trellis " in line)
    options = re.findall(r"--(?:values|set|set-string) \S+", line)
    assert len(options) == 6
    helm = shutil.which("helm", path=f"{ROOT / '.venv/bin'}:/usr/local/bin:/usr/bin")
    if helm is None or not (ROOT / "helm/trellis/Chart.yaml").exists():
        pytest.skip("helm or the chart is not there")
    words = [word for option in options for word in option.split()]
    command = [
        helm,
        "template",
        "trellis",
        "helm/trellis",
        "--namespace",
        "trellis",
        "--kube-version",
        "1.34.0",
        *words,
    ]
    rendered = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    assert "image: trellis-server:local-abababababab" in rendered.stdout.replace('"', "")
    assert re.search(r"kind: Service\nmetadata:\n  name: trellis\n", rendered.stdout)


@pytest.mark.parametrize("tool", ["kind", "helm"])
def test_a_missing_tool_is_named_with_where_to_find_it(tools: Path, tool: str) -> None:
    (tools / tool).unlink()
    if shutil.which(tool, path="/usr/bin:/bin"):
        pytest.skip(f"{tool} is installed here")
    done = run("deploy/kind/up", tools)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tool} is not installed: https://")
    assert not (tools.parent / "asked").exists()
