"""Where jobs and engines run, by the server's settings."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trellis.server.clusters.kuberay.hosts import KubeRayHosts
from trellis.server.clusters.kuberay.places import Places, places_of
from trellis.server.clusters.kuberay.settings import KubeRaySettings, KubeRaySettingsError, read_kuberay_settings
from trellis.server.clusters.ray import RayJobCluster
from trellis.server.clusters.serve import EngineSettings
from trellis.server.config import ConfigError, ServerConfig
from trellis.server.hosting import hosts_for

ENVIRONMENT = {
    "TRELLIS_DATABASE_URL": "sqlite+aiosqlite:///x",
    "TRELLIS_STORE_URL": "/objects",
    "TRELLIS_SECRET_FILE": "/secret",
}
BASIC = {"namespace": "ml", "name": "trellis", "image": "ray:1", "ray_version": "2.60.0", "auth": False}
GROUPS = {"groups": [{"name": "gpu", "pod": {"gpus": 1}}]}


def written(folder: Path, **settings: object) -> Path:
    path = folder / "kuberay.yaml"
    path.write_text(yaml.safe_dump({**BASIC, **settings}))
    return path


def read(folder: Path, **settings: object) -> KubeRaySettings:
    return read_kuberay_settings(written(folder, **settings))


def configured(folder: Path, *, variables: dict[str, str] | None = None, **settings: object) -> ServerConfig:
    path = written(folder, **settings)
    return ServerConfig.from_environment({**ENVIRONMENT, "TRELLIS_KUBERAY_FILE": str(path), **(variables or {})})


def test_the_services_of_kuberay_are_found_by_their_names(tmp_path: Path) -> None:
    head = "http://trellis-trainers-head-svc.ml.svc:8265"
    both = read(tmp_path, trainers=GROUPS, engines=GROUPS)
    serve = "trellis-engines-serve-svc.ml.svc"
    assert places_of(both) == Places(head, "http://trellis-engines-head-svc.ml.svc:8265", serve)
    assert places_of(read(tmp_path, trainers=GROUPS)) == Places(head, head, "trellis-trainers-head-svc.ml.svc")


def test_what_the_server_is_told_goes_before_that(tmp_path: Path) -> None:
    there = places_of(read(tmp_path, engines=GROUPS), "http://ray:8265", "10.0.0.1")
    assert there == Places("http://ray:8265", "http://trellis-engines-head-svc.ml.svc:8265", "10.0.0.1")
    assert places_of(read(tmp_path), "http://ray:8265", "ray") == Places("http://ray:8265", "http://ray:8265", "ray")


@pytest.mark.parametrize(("url", "why"), [("", "trainers must be set"), ("http://ray:8265", "TRELLIS_SERVE_HOST must")])
def test_places_that_nobody_knows_are_asked_for(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(KubeRaySettingsError, match=why):
        places_of(read(tmp_path), url)


def test_with_a_file_of_pods_no_dashboard_need_be_named(tmp_path: Path) -> None:
    config = configured(tmp_path, trainers=GROUPS)
    assert (config.ray_dashboard_url, config.serve_host, config.serve_port) == ("", "", 8000)
    with pytest.raises(ConfigError, match="TRELLIS_RAY_DASHBOARD_URL must be set"):
        ServerConfig.from_environment(ENVIRONMENT)


async def test_a_file_of_pods_makes_kuberay_the_host(tmp_path: Path) -> None:
    variables = {"TRELLIS_RAY_TOKEN_FILE": str(tmp_path / "not-yet")}
    hosts = hosts_for(configured(tmp_path, variables=variables, trainers=GROUPS), EngineSettings("/objects", "hush"))
    assert isinstance(hosts, KubeRayHosts)
    assert hosts.standing is not None
    assert hosts.attempts is not hosts.cluster
    await hosts.close()


async def test_else_a_ray_cluster_is(tmp_path: Path) -> None:
    config = ServerConfig.from_environment({**ENVIRONMENT, "TRELLIS_RAY_DASHBOARD_URL": "http://ray:8265"})
    hosts = hosts_for(config, EngineSettings("/objects", "hush"))
    assert isinstance(hosts.cluster, RayJobCluster)
    assert hosts.standing is None
    assert hosts.attempts is hosts.cluster
    await hosts.close()


def test_wrong_files_are_told(tmp_path: Path) -> None:
    engines = EngineSettings("/objects", "hush")
    with pytest.raises(ConfigError, match=r"Of TRELLIS_KUBERAY_FILE, .*trainerz is not a setting"):
        hosts_for(configured(tmp_path, trainerz={}), engines)
    variables = {"TRELLIS_RAY_DASHBOARD_URL": "http://ray:8265", "TRELLIS_RAY_TOKEN_FILE": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match=r"TRELLIS_RAY_TOKEN_FILE names .* which is not there"):
        hosts_for(ServerConfig.from_environment({**ENVIRONMENT, **variables}), engines)


def test_a_server_on_one_machine_does_not_load_kubernetes() -> None:
    code = "import sys, trellis.server.hosting; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
