"""An upgrade finds the secrets of before: Helm asks an API server, here one that answers over HTTP what it was given."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helm_chart import NAMESPACE, Object, Rendered, render

MADE = ("demo-trellis-secret", "demo-trellis-ray-token", "demo-trellis-postgresql")
SECRETS = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get"]}


class Cluster(ThreadingHTTPServer):
    """So much of Kubernetes' API as Helm needs to read Secrets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.secrets: dict[str, Object] = {}

    def answer(self, path: str) -> dict[str, Any] | None:
        if path == "/api/v1":
            return {"kind": "APIResourceList", "groupVersion": "v1", "resources": [SECRETS]}
        folder, _, name = path.rpartition("/")
        return self.secrets.get(name) if folder == f"/api/v1/namespaces/{NAMESPACE}/secrets" else None


class Answers(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        found = self.server.answer(self.path.partition("?")[0])
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(missing if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Nothing."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    server = Cluster()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    here = {
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    config = tmp_path / "config"
    config.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "here", **here}))
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def secrets_of(rendered: Rendered) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in rendered.all("Secret")}


def test_an_upgrade_writes_back_what_the_install_made(cluster: Cluster) -> None:
    cluster.secrets = secrets_of(render("laptop"))
    assert set(cluster.secrets) == set(MADE)
    again = secrets_of(render("laptop", "--is-upgrade", "--dry-run=server"))
    assert {name: one["data"] for name, one in again.items()} == {
        name: one["data"] for name, one in cluster.secrets.items()
    }


def test_what_a_secret_of_before_lacks_is_made_and_the_rest_is_kept(cluster: Cluster) -> None:
    cluster.secrets = secrets_of(render("laptop"))
    before = cluster.secrets["demo-trellis-secret"]["data"]
    del before["admin-key"]
    after = secrets_of(render("laptop", "--is-upgrade", "--dry-run=server"))["demo-trellis-secret"]["data"]
    assert after["server-secret"] == before["server-secret"]
    assert base64.b64decode(after["admin-key"]).startswith(b"trk_")


def test_where_none_is_there_each_is_fresh(cluster: Cluster) -> None:
    first, second = (secrets_of(render("laptop", "--dry-run=server")) for _ in range(2))
    for name in MADE:
        assert not set(first[name]["data"].values()) & set(second[name]["data"].values())


def test_what_is_made_is_what_the_server_takes() -> None:
    made = secrets_of(render("laptop"))
    keys = {name: base64.b64decode(value).decode() for name, value in made["demo-trellis-secret"]["data"].items()}
    assert len(keys["server-secret"]) == 64
    assert len(keys["admin-key"].removeprefix("trk_")) == 43
    database = {
        name: base64.b64decode(value).decode() for name, value in made["demo-trellis-postgresql"]["data"].items()
    }
    assert database["url"] == (
        f"postgresql+psycopg://trellis:{database['password']}@demo-trellis-postgresql:5432/trellis"
    )
