"""Fixtures for every test: databases, and what a machine without a GPU or PostgreSQL leaves out."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import INSTALL_HINT, PostgresServer, find_programs

# A test must not reach a hub, report usage, or draw colours into what it compares.
os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", NO_COLOR="1", TOKENIZERS_PARALLELISM="false")
# Threads that spin while they wait starve the other worker on a small machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# A developer's own profile must not decide how a test ends.
for _name in ("TRELLIS_ENDPOINT", "TRELLIS_API_KEY", "TRELLIS_PROFILE"):
    os.environ.pop(_name, None)
# No test fails for its time, and hypothesis's first draw may take a second on a busy machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

DATABASES = ("sqlite", "postgresql")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs PostgreSQL, and skip what needs a GPU where there is none."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        uses = set(getattr(item, "fixturenames", ()))
        if "postgres_url" in uses or (callspec and callspec.params.get("database") == "postgresql"):
            item.add_marker(pytest.mark.postgres)
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not _has_gpu():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch  # noqa: PLC0415 - seconds to import, and only GPU tests ask

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server a session (a worker, under xdist), started when the first test asks for it."""
    programs = find_programs()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail(INSTALL_HINT)
        pytest.skip(INSTALL_HINT)
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy's URL of a database that the whole session shares."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    """Which database a test runs on; a test that asks for `database_url` runs once on each."""
    return str(request.param)


@pytest.fixture
def database_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """SQLAlchemy's async URL of a fresh and empty database, on SQLite and then on PostgreSQL."""
    if database == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'trellis.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)
