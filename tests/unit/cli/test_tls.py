"""TLS on the command line: in profiles and variables, over a real socket."""

import io
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from tests.authority import Authority
from tests.fake_server import KEY, FakeServer
from tests.unit.cli.conftest import Ran


def test_a_profile_brings_the_ca_and_the_own_certificate(
    offline: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    pair, mine = authority.issue("server"), authority.issue("me")
    server = FakeServer()
    server.credentials = grpc.ssl_server_credentials(
        [(pair.key.read_bytes(), pair.certificate.read_bytes())],
        root_certificates=authority.file.read_bytes(),
        require_client_auth=True,
    )
    with server:
        monkeypatch.setattr("sys.stdin", io.StringIO(KEY))
        options = {
            "--ca-file": authority.file,
            "--certificate-file": mine.certificate,
            "--certificate-key-file": mine.key,
        }
        files = [str(word) for option in options.items() for word in option]
        made = offline("config", "set-profile", "safe", "--endpoint", f"localhost:{server.port}", "--ask-key", *files)
        assert made.code == 0, made.err
        assert offline("tenants", "list", "--format", "json").json == []
        (shown,) = offline("config", "list", "--format", "json").json
        assert (shown["ca_file"], shown["certificate_file"]) == (str(authority.file), str(mine.certificate))

        monkeypatch.setenv("TRELLIS_CONFIG", str(tmp_path / "none.toml"))
        monkeypatch.setenv("TRELLIS_ENDPOINT", f"localhost:{server.port}")
        monkeypatch.setenv("TRELLIS_API_KEY", KEY)
        ran = offline("tenants", "list")
        assert ran.code == 1
        assert "speaks TLS, but this client does not" in ran.err
        monkeypatch.setenv("TRELLIS_CA_FILE", str(authority.file))
        assert "asks every client for a certificate" in offline("tenants", "list").err
        monkeypatch.setenv("TRELLIS_CERTIFICATE_FILE", str(mine.certificate))
        monkeypatch.setenv("TRELLIS_CERTIFICATE_KEY_FILE", str(mine.key))
        assert offline("tenants", "list").code == 0
        monkeypatch.setenv("TRELLIS_CERTIFICATE_KEY_FILE", str(authority.file))
        assert "are not a PEM certificate and its key" in offline("tenants", "list").err
