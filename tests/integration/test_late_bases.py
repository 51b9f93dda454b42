"""A server whose base model is still being fetched."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hub_fake import COMMIT, running_hub
from tests.server_process import BASE, SECONDS, Server

from trellis.base_cache.fetch import fetch
from trellis.local.ports import free_ports


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, *free_ports(2))
    yield found
    found.end()


def test_a_server_starts_without_its_base_and_has_it_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    server.start(
        TRELLIS_BASE_MODELS=f"late=acme/tiny@{COMMIT}", TRELLIS_BASE_CACHE=str(cache), HF_ENDPOINT="http://127.0.0.1:9"
    )
    server.until_ready()
    with running_hub() as hub, server.client() as admin:
        assert list(admin.base_models.list()) == []
        hub.folders["acme/tiny"] = BASE
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        fetch("acme/tiny", COMMIT, cache)
        pause = threading.Event()
        for _ in range(int(SECONDS / 0.1)):
            if found := list(admin.base_models.list()):
                break
            pause.wait(0.1)
        assert [(base.name, base.revision, base.is_default) for base in found] == [("baseModels/late", COMMIT, True)]
