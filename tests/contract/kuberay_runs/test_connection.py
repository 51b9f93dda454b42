"""How the server comes to Kubernetes."""

from pathlib import Path

import pytest
import yaml
from kubernetes.aio.config import incluster_config
from tests.kube.rig import Kube
from tests.kube.server import TOKEN

from trellis.errors import Unavailable
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.connection import in_cluster_or_kubeconfig, kubeconfig
from trellis.server.clusters.kuberay.resources import RAY_JOBS


async def test_by_a_kubeconfig(stand_in: Kube, tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "stand-in", "user": "server"}}],
        "clusters": [{"name": "stand-in", "cluster": {"server": stand_in.server.url}}],
        "users": [{"name": "server", "user": {"token": TOKEN}}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    api = KubeApi("trellis", kubeconfig(path))
    assert (await api.list(RAY_JOBS)).items == ()
    await api.close()


async def test_by_the_account_of_a_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    authority.write_text("a certificate")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = await in_cluster_or_kubeconfig()
    assert (found.host, found.ssl_ca_cert) == ("https://10.0.0.1:443", str(authority))
    assert await found.get_api_key_with_prefix("BearerToken") == "bearer first"


async def test_a_place_without_either_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "nothing"))
    api = KubeApi("trellis")
    with pytest.raises(Unavailable, match="neither a service account nor a kubeconfig"):
        await api.list(RAY_JOBS)
