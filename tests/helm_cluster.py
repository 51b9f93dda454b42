"""So much of Kubernetes' API as Helm needs to read Secrets, over HTTP."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import yaml

from tests.helm_chart import NAMESPACE, Object

_SECRETS: Final = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get"]}


class Cluster(ThreadingHTTPServer):
    """Answers with the Secrets that it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.secrets: dict[str, Object] = {}
        """By name."""

    def put(self, name: str, version: int, **data: str) -> None:
        """A Secret as somebody else wrote it; `version` is its resourceVersion, `data` is base64."""
        metadata = {"name": name, "namespace": NAMESPACE, "resourceVersion": str(version)}
        self.secrets[name] = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}

    @property
    def configuration(self) -> str:
        """What $KUBECONFIG is to name."""
        here = {
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        return yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "here", **here})

    def answer(self, path: str) -> dict[str, Any] | None:
        """What stands at a path."""
        if path == "/api/v1":
            return {"kind": "APIResourceList", "groupVersion": "v1", "resources": [_SECRETS]}
        folder, _, name = path.rpartition("/")
        return self.secrets.get(name) if folder == f"/api/v1/namespaces/{NAMESPACE}/secrets" else None


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """One that answers until the block ends."""
    server = Cluster()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Answers(BaseHTTPRequestHandler):
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
