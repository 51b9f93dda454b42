"""The CLI against a fake server, as its users run it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fake_server import KEY, FakeServer

from trellis.cli.main import run


@dataclass
class Ran:
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        running.datasets.polls_until_ready = 0
        running.adapters.polls_until_deployed = 0
        yield running


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line with nothing configured."""
    for name in ("TRELLIS_ENDPOINT", "TRELLIS_API_KEY", "TRELLIS_TENANT", "TRELLIS_PROFILE", "TRELLIS_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRELLIS_CONFIG", str(tmp_path / "config.toml"))

    def ran(*arguments: str) -> Ran:
        capsys.readouterr()
        code = run(arguments)
        return Ran(code, *capsys.readouterr())

    return ran


@pytest.fixture
def trellis(offline: Callable[..., Ran], server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command line against the fake server, as the tenant acme."""
    monkeypatch.setenv("TRELLIS_ENDPOINT", server.endpoint)
    monkeypatch.setenv("TRELLIS_API_KEY", KEY)
    monkeypatch.setenv("TRELLIS_TENANT", "acme")
    return offline
