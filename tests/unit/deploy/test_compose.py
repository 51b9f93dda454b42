"""deploy/compose.yaml and what is laid over it: valid, whole, and saying what the programs that it starts understand."""

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.server import ThreadedMotoServer
from tests.images.layout import ROOT

from trellis.base_cache.cache import VARIABLE as BASE_CACHE
from trellis.server.config import OPTIONS, ServerConfig

DEPLOY = ROOT / "deploy"
OVERLAYS = ["compose.tls.yaml", "compose.gpu.yaml"]
_DEFAULT = re.compile(r"\$\{(\w+):-([^}]*)\}")
IMAGE_VARIABLES = {"TRELLIS_GRPC_ADDRESS": "0.0.0.0:50051", "TRELLIS_HTTP_ADDRESS": "0.0.0.0:8000"}
KNOWN = {
    *(f"TRELLIS_{f.name.upper()}" for f in fields(ServerConfig) if f.name not in OPTIONS),
    *(f"TRELLIS_{group.upper()}_{f.name.upper()}" for group, kind in OPTIONS.items() for f in fields(kind)),
    BASE_CACHE,
}


def read(name: str) -> dict[str, Any]:
    """A file as compose reads it where no variable is set."""
    text = (DEPLOY / name).read_text()
    return yaml.safe_load(_DEFAULT.sub(lambda found: found[2], text))  # type: ignore[no-any-return]


def laid_over(*names: str) -> dict[str, Any]:
    """The services with overlays, as compose merges what ours have: mappings by key, lists one after the other."""
    merged = read("compose.yaml")
    for name in names:
        for service, more in read(name)["services"].items():
            into = merged["services"][service]
            into["environment"] = {**into.get("environment", {}), **more.get("environment", {})}
            into["secrets"] = [*into["secrets"], *more.get("secrets", [])]
        merged["secrets"].update(read(name).get("secrets", {}))
    return merged


COMPOSE = read("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ["server-1", "server-2"]


@pytest.mark.parametrize("name", ["compose.yaml", *OVERLAYS])
def test_a_file_is_valid_by_the_specification(name: str) -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="PyPI has compose-spec for x86-64 Linux only")
    compose_spec.PyCompose.from_json(json.dumps(read(name)))
    broken = read(name)
    broken["services"]["server-1"]["helthcheck"] = {}
    with pytest.raises(ValueError, match="helthcheck"):
        compose_spec.PyCompose.from_json(json.dumps(broken))


def test_everything_that_is_named_is_there() -> None:
    whole = laid_over(*OVERLAYS)
    used: dict[str, set[str]] = {"networks": set(), "secrets": set(), "volumes": set()}
    for service in whole["services"].values():
        used["networks"] |= set(service["networks"])
        used["secrets"] |= set(service.get("secrets", []))
        used["volumes"] |= {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert set(service.get("depends_on", {})) <= set(whole["services"])
    for kind, names in used.items():
        assert names == set(whole[kind]), kind


def test_a_secret_that_a_variable_names_is_mounted() -> None:
    for name, service in laid_over("compose.tls.yaml")["services"].items():
        text = json.dumps([service.get("environment", {}), service.get("command", [])])
        assert set(re.findall(r"/run/secrets/([\w-]+)", text)) == set(service.get("secrets", [])), name


def test_what_waits_for_health_waits_for_something_that_says_so() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "test" in SERVICES[name]["healthcheck"]


def test_nothing_but_the_api_is_published_and_that_on_the_loopback_interface() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"server-1": ["127.0.0.1:50051:50051"], "server-2": ["127.0.0.1:50061:50051"]}
    outside = {name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")}
    assert {name for name, service in SERVICES.items() if outside & set(service["networks"])} == set(SERVERS)


def test_every_container_is_bounded_and_can_write_only_where_it_must() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # All three in one place: Compose refuses a pids_limit beside limits that do not say the same.
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert "pids_limit" not in service, name
        assert service["restart"] in {"unless-stopped", "on-failure"}, name


def test_images_are_those_of_images_env() -> None:
    pinned = dict(re.findall(r"^(\w+_IMAGE)=([^@\s]+)", (DEPLOY / "images.env").read_text(), re.MULTILINE))
    defaults = dict(_DEFAULT.findall((DEPLOY / "compose.yaml").read_text()))
    for name in ("POSTGRES_IMAGE", "STORE_IMAGE"):
        assert defaults[name] == pinned[name]


@pytest.mark.parametrize("overlays", [[], ["compose.tls.yaml"], ["compose.gpu.yaml"]])
@pytest.mark.parametrize("name", SERVERS)
def test_the_server_understands_its_settings(name: str, overlays: list[str]) -> None:
    environment = laid_over(*overlays)["services"][name]["environment"]
    assert {variable for variable in environment if variable.startswith("TRELLIS_")} <= KNOWN
    config = ServerConfig.from_environment({name: str(value) for name, value in environment.items()} | IMAGE_VARIABLES)
    assert config.advertised_endpoint.endswith("server:50051")
    assert "server" in SERVICES[name]["networks"]["control"]["aliases"]
    assert config.tls.enabled == ("compose.tls.yaml" in overlays)
    assert config.ray_dashboard_url == "http://ray-head:8265"


def test_servers_and_cluster_see_the_same_store_and_the_same_bases() -> None:
    shared = [variable for variable in SERVICES["server-1"]["environment"] if variable.startswith("AWS_")]
    assert len(shared) == 3
    for variable in [*shared, BASE_CACHE]:
        values = {SERVICES[name]["environment"][variable] for name in (*SERVERS, "ray-head", "ray-worker")}
        assert len(values) == 1, variable


def test_ray_understands_its_options() -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    known = {option for parameter in scripts.start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for name in ("ray-head", "ray-worker"):
        program, verb, *options = SERVICES[name]["command"]
        assert (program, verb) == ("ray", "start")
        assert {option.partition("=")[0] for option in options} <= known


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_a_ray_container_stops_soon_and_by_itself(name: str) -> None:
    """Ray drains a node that is stopped, half a minute by default, though no other node could take over what it has."""
    constants = pytest.importorskip("ray._private.ray_constants")
    variable = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    seconds = float(SERVICES[name]["environment"][variable])
    assert 0 < seconds < getattr(constants, variable)
    assert 2 * seconds < int(SERVICES[name]["stop_grace_period"].removesuffix("s"))


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_a_ray_container_is_healthy_once_its_node_is_up(name: str) -> None:
    """Not before: the store of the cluster's state answers while the head's own node is still to come."""
    options = dict(re.findall(r"--([\w-]+)=(\S+)", "\n".join(SERVICES[name]["command"])))
    asked = [address for address in SERVICES[name]["healthcheck"]["test"] if address.startswith("http")]
    wanted = [f"http://127.0.0.1:{options['dashboard-agent-listen-port']}/api/local_raylet_healthz"]
    if "dashboard-port" in options:
        wanted.append(f"http://127.0.0.1:{options['dashboard-port']}/api/gcs_healthz")
    assert sorted(asked) == sorted(wanted)


def make_secrets(folder: Path) -> str:
    done = subprocess.run([DEPLOY / "make-secrets", str(folder)], capture_output=True, text=True, check=True)
    return done.stdout


def test_every_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder).count("made ") == len(COMPOSE["secrets"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == set(COMPOSE["secrets"])
    assert {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()} == set(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    assert make_secrets(folder) == ""
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_secrets_fit_together(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    secrets = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    (identity,) = json.loads(secrets["store-identities"])["identities"]
    (credential,) = identity["credentials"]
    assert f"aws_access_key_id = {credential['accessKey']}\n" in secrets["store-credentials"]
    assert f"aws_secret_access_key = {credential['secretKey']}\n" in secrets["store-credentials"]
    assert f"password={secrets['database-password'].strip()}\n" in secrets["database-service"]
    database = SERVICES["database"]["environment"]
    assert f"dbname={database['POSTGRES_DB']}\nuser={database['POSTGRES_USER']}\n" in secrets["database-service"]
    assert len(secrets["server-secret"].strip()) >= 32


def test_the_database_s_address_is_taken_from_the_service_file(tmp_path: Path) -> None:
    """libpq reads the file, and asks no more of its mode than that it can be read."""
    make_secrets(tmp_path / "secrets")
    url = SERVICES["server-1"]["environment"]["TRELLIS_DATABASE_URL"]
    program = (
        "import sys, psycopg\nfrom sqlalchemy import make_url\nfrom sqlalchemy.dialects import registry\n"
        "args, options = registry.load('postgresql.psycopg')().create_connect_args(make_url(sys.argv[1]))\n"
        "try: psycopg.connect(*args, connect_timeout=2, hostaddr='127.0.0.1', port=9, **options)\n"
        "except psycopg.OperationalError as error: print(error)"
    )
    environment = {**os.environ, "PGSERVICEFILE": str(tmp_path / "secrets/database-service")}
    command = [sys.executable, "-c", program, url]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "127.0.0.1" in said
    assert "refused" in said.lower()


def test_the_bucket_is_made_once_on_a_server_that_speaks_s3(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    service = SERVICES["store-bucket"]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            **os.environ,
            **service["environment"],
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "secrets/store-credentials"),
        }
        program = [sys.executable, *service["command"][1:]]
        look = [sys.executable, "-c", "import json, s3fs; print(json.dumps(s3fs.S3FileSystem().ls('')))"]

        def buckets() -> set[str]:
            return set(json.loads(subprocess.run(look, env=environment, capture_output=True, check=True).stdout))

        before = buckets()  # of other tests: moto's servers of one process share what they keep
        for _ in range(2):
            subprocess.run(program, env=environment, check=True)
        assert buckets() - before == {"trellis"}
    finally:
        server.stop()
    assert SERVICES["server-1"]["environment"]["TRELLIS_STORE_URL"].startswith("s3://trellis/")
