"""A server started as the chart's pods start it: the same variables, files, role and commands, over a real PostgreSQL."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helm_chart import Rendered, environment, granted, render
from tests.kube.rig import Kube
from tests.kube.server import TOKEN
from tests.kubernetes_schemas import at_hand, custom_errors
from tests.postgres import PostgresServer
from tests.server_process import BASE, Server

from trellis.local.ports import free_ports
from trellis.server.clusters.kuberay.resources import CONFIG_MAPS, RAY_CLUSTERS, RAY_SERVICES, Object, Resource

PATHS = ("/run/trellis", "/etc/trellis", "/store", "/bases", "/tmp")
NAMESPACE = "tuning"
IMAGE_BASE = "/opt/trellis/lib/python3.11/site-packages/trellis/base_models/trellis-tiny"


class Pod:
    """The rendered pods' containers, on this machine: their paths are folders, and Secrets and ConfigMaps files there."""

    def __init__(self, rendered: Rendered, root: Path, database_url: str) -> None:
        self.rendered, self.root, self.database_url = rendered, root, database_url
        for path in PATHS:
            self.place(path).mkdir(parents=True)
        spec = self.spec("Deployment", f"{rendered.name}-server")
        for mount in spec["containers"][0]["volumeMounts"]:
            self._fill(
                next(one for one in spec["volumes"] if one["name"] == mount["name"]), self.place(mount["mountPath"])
            )

    def place(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def spec(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.rendered.one(kind, name)["spec"]["template"]["spec"]
        return found

    def variables(self, container: dict[str, Any]) -> dict[str, str]:
        """Its environment, with this machine's paths."""
        chosen = {name: self._here(value) for name, value in environment(container).items()}
        chosen["TRELLIS_DATABASE_URL"] = self.database_url  # instead of the Secret's: its host is the cluster's
        return chosen

    def run(self, job: str) -> subprocess.CompletedProcess[str]:
        """Run a Job's container to its end."""
        name = next(one["metadata"]["name"] for one in self.rendered.all("Job") if job in one["metadata"]["name"])
        (container,) = self.spec("Job", name)["containers"]
        words = [self._here(word) for word in container["command"][1:]]
        variables = {**os.environ, **self.variables(container)}
        return subprocess.run(
            [sys.executable, *words], env=variables, capture_output=True, text=True, check=False, timeout=120
        )

    def _here(self, value: str) -> str:
        if IMAGE_BASE in value:
            return value.replace(IMAGE_BASE, str(BASE))
        return str(self.place(value)) if value.startswith(PATHS) else value

    def _fill(self, volume: dict[str, Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if "secret" in volume:
            data = self.rendered.one("Secret", volume["secret"]["secretName"])["data"]
            for item in volume["secret"]["items"]:
                (folder / item["path"]).write_bytes(base64.b64decode(data[item["key"]]))
        elif "configMap" in volume:
            for name, text in self.rendered.one("ConfigMap", volume["configMap"]["name"])["data"].items():
                (folder / name).write_text(text)


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render("laptop")


@pytest.fixture
def pod(rendered: Rendered, tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Pod]:
    name = postgres_server.create_database()
    yield Pod(rendered, tmp_path / "root", postgres_server.url(name))
    postgres_server.drop_database(name)


async def test_it_serves_with_the_given_key_and_makes_the_standing_clusters(pod: Pod, tmp_path: Path) -> None:
    kube = Kube(tmp_path, granted(pod.rendered, "server"))
    kube.store.namespaces.add(NAMESPACE)
    kube.store.create(CONFIG_MAPS, NAMESPACE, pod.rendered.one("ConfigMap", f"{pod.rendered.name}-ray"))
    await kube.server.start()
    (container,) = pod.spec("Deployment", f"{pod.rendered.name}-server")["containers"]
    grpc_port, http_port, jobs_port = free_ports(3)
    server = Server(tmp_path, grpc_port, http_port)
    changed = {
        **pod.variables(container),
        "TRELLIS_GRPC_ADDRESS": f"127.0.0.1:{grpc_port}",
        "TRELLIS_HTTP_ADDRESS": f"127.0.0.1:{http_port}",
        "TRELLIS_WORKER_ADDRESS": f"127.0.0.1:{jobs_port}",
        "TRELLIS_ADMIN_KEY_FILE": "",
        "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", kube.server.url)),
    }
    process = server.start(**changed)
    try:
        migrated, fetched = await asyncio.gather(*(asyncio.to_thread(pod.run, job) for job in ("-migrate-", "-fetch-")))
        assert migrated.returncode == 0, migrated.stderr
        assert fetched.returncode == 0, fetched.stderr
        assert (await asyncio.to_thread(pod.run, "-migrate-")).returncode == 0  # safe to run twice
        await asyncio.to_thread(server.until_ready)
        key = pod.place("/run/trellis/secret/admin-key").read_text()
        await asyncio.to_thread(has_base, server, key)
        await until_made(kube, server, RAY_CLUSTERS, "demo-trellis-trainers")
        await until_made(kube, server, RAY_SERVICES, "demo-trellis-engines")
        process.send_signal(signal.SIGTERM)
        grace = pod.spec("Deployment", f"{pod.rendered.name}-server")["terminationGracePeriodSeconds"]
        assert await asyncio.to_thread(process.wait, grace) == 0
    finally:
        server.end()
        await kube.server.stop()
    applied = {("ray.io", "rayclusters", "patch"), ("ray.io", "rayservices", "patch")}
    assert applied <= set(kube.server.asked) <= granted(pod.rendered, "server")


def has_base(server: Server, key: str) -> None:
    with server.client(key) as client:
        assert [base.name for base in client.base_models.list()] == ["baseModels/trellis-tiny"]


async def until_made(kube: Kube, server: Server, kind: Resource, name: str) -> Object:
    try:
        async with asyncio.timeout(60):
            while not (found := [one for one in kube.store.list(kind, NAMESPACE) if one["metadata"]["name"] == name]):
                await kube.store.changed()
    except TimeoutError:
        pytest.fail(f"{kind.kind} {name} was not made:\n{server.log.read_text()[-4000:]}\n{kube.server.asked[-20:]}")
    (made,) = found
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("ConfigMap", "demo-trellis-ray")
    if at_hand(kind.kind, "ray.io/v1") is not None:
        document = {name: value for name, value in made.items() if name != "status"}
        assert custom_errors(document) == []
    return made


def kubeconfig(path: Path, url: str) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": {"server": url}}],
                "users": [{"name": "server", "user": {"token": TOKEN}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "server"}}],
                "current-context": "here",
            }
        )
    )
    return path
