"""Each file of ci/ is rendered once."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.helm_chart import VALUES, Rendered, read_settings, render
from tests.helm_cluster import Cluster, running_cluster

from trellis.server.clusters.kuberay.settings import KubeRaySettings


@functools.cache
def _rendered(name: str) -> Rendered:
    return render(name)


@pytest.fixture(params=VALUES)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """A test that asks for it runs once for each file."""
    return _rendered(request.param)


@pytest.fixture(scope="session")
def rendered_of() -> Callable[[str], Rendered]:
    """By the name of a file."""
    return _rendered


@pytest.fixture
def laptop() -> Rendered:
    return _rendered("laptop")


@pytest.fixture
def production() -> Rendered:
    return _rendered("production")


@pytest.fixture
def given_secrets() -> Rendered:
    return _rendered("given-secrets")


@pytest.fixture
def settings(rendered: Rendered, tmp_path: Path) -> KubeRaySettings:
    """What the server reads of the rendered ConfigMap."""
    return read_settings(rendered, tmp_path)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """What Helm asks where it is told to render as on a cluster (`--dry-run=server`)."""
    with running_cluster() as server:
        config = tmp_path / "config"
        config.write_text(server.configuration)
        monkeypatch.setenv("KUBECONFIG", str(config))
        monkeypatch.setenv("HOME", str(tmp_path))
        yield server
