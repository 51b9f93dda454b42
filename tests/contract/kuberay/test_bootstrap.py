"""A server that is built with a file of pods: it finds Kubernetes, and keeps its clusters there."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from kubernetes.aio.config import kube_config
from tests.kube.rig import Kube
from tests.kube.server import TOKEN

from trellis.server.bootstrap import build
from trellis.server.clusters.kuberay.resources import RAY_CLUSTERS, RAY_SERVICES, name_of
from trellis.server.config import ServerConfig

GROUPS = {"groups": [{"name": "cpu", "pod": {}, "min_replicas": 1}]}
PODS = {"namespace": "trellis", "name": "here", "image": "ray:1", "ray_version": "2.60.0", "auth": False}


def kubeconfig(url: str) -> str:
    """As `kubectl` writes it."""
    cluster = {"name": "here", "cluster": {"server": url}}
    user = {"name": "me", "user": {"token": TOKEN}}
    context = {"name": "it", "context": {"cluster": "here", "user": "me"}}
    every = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "it"}
    return json.dumps({"apiVersion": "v1", "kind": "Config", **every})


async def test_a_server_keeps_its_clusters(
    cluster: Kube, sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubeconfig").write_text(kubeconfig(cluster.server.url))
    (tmp_path / "kuberay.yaml").write_text(yaml.safe_dump({**PODS, "trainers": GROUPS, "engines": GROUPS}))
    # Which is $KUBECONFIG as it was when the client was loaded.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    shutil.copy(sqlite_template, tmp_path / "trellis.db")
    variables = {
        "TRELLIS_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'trellis.db'}",
        "TRELLIS_STORE_URL": str(tmp_path / "objects"),
        "TRELLIS_SECRET_FILE": str(tmp_path / "secret"),
        "TRELLIS_KUBERAY_FILE": str(tmp_path / "kuberay.yaml"),
        "TRELLIS_START_TIMEOUT_SECONDS": "1800",
    }
    platform = build(ServerConfig.from_environment(variables))
    try:
        loops = {loop.name: loop for loop in platform.loops}
        assert {"keep_clusters", "watch_starts"} <= loops.keys()
        assert platform.context.settings.start_timeout.total_seconds() == 1800
        for name in ("keep_clusters", "watch_starts", "deploy", "launch", "reap_orphans"):
            await loops[name]._step.once()
        made = [name_of(one) for kind in (RAY_CLUSTERS, RAY_SERVICES) for one in cluster.store.list(kind, "trellis")]
        assert {"here-trainers", "here-engines"} <= set(made)
        assert all(verb in cluster.server.permissions for verb in cluster.server.asked)  # type: ignore[operator]
    finally:
        await platform.close()
        await platform.server.stop(None)
