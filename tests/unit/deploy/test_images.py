"""The images' files, laid out as their Dockerfiles say, and every entry point started from them."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.images.layout import ROOT, Image, Stage

from trellis.local.ports import free_ports
from trellis.local.ray_head import SERVE_PROXY
from trellis.native.targets import targets_of

SECONDS = 100.0
CPU = "server,ray,train,serve"
"""What a laptop's image has; the CUDA image's bitsandbytes is not in the environment that the tests run in."""
EVERY_MODULE = """
import importlib, pkgutil
for package in ("trellis.server", "trellis.cli", "trellis.client", "trellis.base_cache", "trellis.isolation"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__") and ".migrations." not in module.name:
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                print(f"{module.name}: {error}")
"""
STARTS = """
import runpy, sys
import trellis.base_cache.main, trellis.serving.replica, trellis_jobs.distributed.worker
for module in sys.argv[1:]:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyError as error:
        print(module, "wants", error.args[0], flush=True)
"""
"""As `python -m` starts each, one after the other: torch is imported once."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    scratch = tmp_path_factory.mktemp("server")
    return Image(ROOT / "deploy/server/Dockerfile", scratch, VERSION="1.2.3", REVISION="abc").last


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Image(ROOT / "deploy/ray/Dockerfile", tmp_path_factory.mktemp("ray"), EXTRAS=CPU).last


def run(stage: Stage, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a container of the image does: with the image's environment, and nothing of this one."""
    program = stage.inside(f"/opt/trellis/bin/{command[0]}")
    first = [str(program)] if command[0] == "python" else [str(stage.inside("/opt/trellis/bin/python")), str(program)]
    return subprocess.run(
        [*first, *command[1:]],
        cwd="/",
        env={**stage.environment, **settings},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def files_of(stage: Stage) -> set[Path]:
    """What would be the image's read-only part."""
    return {path for path in stage.inside("/opt").rglob("*") if not path.is_symlink()}


def test_the_label_s_arguments_are_filled_in(server: Stage) -> None:
    labels = {name.rpartition("image.")[2]: value for name, value in server.labels.items()}
    assert (labels["version"], labels["revision"], labels["licenses"]) == ("1.2.3", "abc", "Apache-2.0")


def test_the_server_s_image_has_no_torch_and_no_ray(server: Stage) -> None:
    for name in ("torch", "ray", "transformers", "deepspeed"):
        done = run(server, "python", "-c", f"import {name}")
        assert f"No module named '{name}'" in done.stderr


def test_every_module_of_the_control_plane_finds_what_it_imports(server: Stage) -> None:
    done = run(server, "python", "-c", EVERY_MODULE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_command_line_of_the_server_s_image(server: Stage) -> None:
    done = run(server, "trellis", "version")
    assert done.stdout.startswith("trellis 0."), done.stderr
    assert run(server, "trellis", "server", "--help").returncode == 0


def test_base_models_are_fetched_by_the_server_s_image(server: Stage) -> None:
    done = run(server, "python", "-m", "trellis.base_cache", "--help")
    assert "Fetch a base model" in done.stdout, done.stderr


def test_the_database_is_migrated_by_the_server_s_image(server: Stage, tmp_path: Path) -> None:
    url = {"TRELLIS_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'trellis.db'}"}
    command = ("python", "-m", "trellis.server.store.migrations")
    for _ in range(2):
        assert run(server, *command, **url).returncode == 0
    assert run(server, *command, "--check", **url).returncode == 0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    grpc_port, http_port = free_ports(2)
    return {
        "TRELLIS_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'trellis.db'}",
        "TRELLIS_STORE_URL": str(folder / "objects"),
        "TRELLIS_SECRET_FILE": str(folder / "server.secret"),
        "TRELLIS_ADMIN_KEY_FILE": str(folder / "admin.key"),
        "TRELLIS_RAY_DASHBOARD_URL": "http://127.0.0.1:9",
        "TRELLIS_GRPC_ADDRESS": f"127.0.0.1:{grpc_port}",
        "TRELLIS_HTTP_ADDRESS": f"127.0.0.1:{http_port}",
    }


@pytest.fixture(scope="module")
def serving(server: Stage, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The image's own command, with a base model that lies in the image."""
    (base,) = server.inside("/opt/trellis/lib").glob("*/site-packages/trellis/base_models/trellis-tiny")
    environment = {**server.environment, **settings, "TRELLIS_BASE_MODELS": f"tiny={base}"}
    command = [str(server.inside("/opt/trellis/bin/python")), *server.command[1:]]
    with Path(settings["TRELLIS_STORE_URL"]).with_name("log").open("wb") as log:
        process = subprocess.Popen(command, cwd="/", env=environment, stdout=log, stderr=subprocess.STDOUT)
    yield process
    process.kill()
    process.wait()


def test_the_server_starts_is_healthy_and_leaves_its_image_as_it_was(
    server: Stage, settings: dict[str, str], serving: subprocess.Popen[bytes]
) -> None:
    before = files_of(server)
    probe = [part.replace("127.0.0.1:8000", settings["TRELLIS_HTTP_ADDRESS"]) for part in server.health]
    assert probe != server.health
    pause = threading.Event()
    for _ in range(int(SECONDS / 0.5)):
        if run(server, *probe).returncode == 0:
            break
        assert serving.poll() is None, Path(settings["TRELLIS_STORE_URL"]).with_name("log").read_text()
        pause.wait(0.5)
    with grpc.insecure_channel(settings["TRELLIS_GRPC_ADDRESS"]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    key = Path(settings["TRELLIS_ADMIN_KEY_FILE"]).read_text().strip()
    connection = {"TRELLIS_ENDPOINT": settings["TRELLIS_GRPC_ADDRESS"], "TRELLIS_API_KEY": key}
    said = run(server, "trellis", "base-models", "list", **connection)
    assert "tiny" in said.stdout, said.stderr
    assert files_of(server) == before
    serving.terminate()
    assert serving.wait(30) == 0
    assert run(server, *probe).returncode != 0, "the health check must fail when the server is gone"


def test_every_program_of_the_cluster_starts_from_its_image(ray: Stage) -> None:
    """Those that runs begin with read their settings first, and say which they lack."""
    before = files_of(ray)
    runs = ("trellis_jobs.export.main", "trellis_jobs.distributed.main")
    done = run(ray, "python", "-c", STARTS, *runs, TRELLIS_NATIVE="0")
    assert [line for line in done.stdout.splitlines() if " wants " in line] == [
        "trellis_jobs.export.main wants TRELLIS_STORE_URL",
        "trellis_jobs.distributed.main wants TRELLIS_WORKER_ENDPOINT",
    ], done.stderr
    trainer = run(ray, "python", "-m", "trellis_jobs.shared.main", TRELLIS_NATIVE="0")
    assert trainer.returncode == 1
    assert "KeyError: 'TRELLIS_WORKER_ENDPOINT'" in trainer.stderr
    assert files_of(ray) == before


def test_ray_itself_starts_from_the_image(ray: Stage) -> None:
    assert ray.command[0] == "ray"
    done = run(ray, "ray", "--version")
    assert done.stdout.startswith("ray, version 2."), done.stderr


def test_serve_s_proxies_reach_replicas_as_they_do_on_one_machine(ray: Stage) -> None:
    assert SERVE_PROXY.items() <= ray.environment.items()


def test_the_cluster_s_image_ships_kernels_for_every_kind_of_cpu(ray: Stage) -> None:
    shipped = [path.name for path in Path(ray.environment["TRELLIS_NATIVE_LIBRARIES"]).iterdir()]
    kinds = targets_of(os.uname().machine)
    assert kinds
    assert sorted(name.rpartition("-")[0] for name in shipped) == sorted(kind.name for kind in kinds)
