import socket
from pathlib import Path

import pytest

from trellis.local.layout import DataDir, default_data_dir
from trellis.local.ports import free_ports, is_free
from trellis.local.ray_head import RayPorts, ray_command, ray_environment


def test_the_default_folder_is_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_dir() == Path("/somewhere/trellis")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_data_dir() == Path.home() / ".local" / "share" / "trellis"


def test_the_folders_are_for_the_owner_alone(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "deep" / "data")
    data.create()
    data.create()
    for folder in (data.root, data.objects, data.logs):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert data.database_url == f"sqlite+aiosqlite:///{data.root}/trellis.db"


def test_two_folders_have_two_markers_and_short_ray_folders(tmp_path: Path) -> None:
    one, two = DataDir(tmp_path / "one"), DataDir(tmp_path / ("long" * 50))
    assert one.marker != two.marker
    assert one.ray_dir != two.ray_dir
    assert len(two.ray_dir.name) < 20


def test_free_ports_differ_and_are_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) for port in ports)
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        assert max(ports) < first_of_clients <= client.getsockname()[1], "no client is given one of them"


def test_ray_listens_on_the_loopback_interface_only_and_asks_for_a_token(tmp_path: Path) -> None:
    ports = RayPorts.choose()
    command = ray_command(ports, tmp_path, 3)
    assert {"--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=3"} <= set(command)
    assert f"--dashboard-port={ports.dashboard}" in command
    environment = ray_environment({"HOME": "/h", "RAY_AUTH_MODE": "none"}, tmp_path / "token")
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert environment["HOME"] == "/h"
