"""Where a client calls and as whom."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trellis.client._transport import Target
from trellis.client.profiles import Profile, ProfileError, Profiles, config_path, load_profiles, save_profiles
from trellis.client.settings import Settings, resolve
from trellis.errors import InvalidArgument


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "config.toml"
    profiles = {
        "local": Profile("localhost:1111", "local-key", tenant="acme"),
        "prod": Profile("https://trellis.example", "prod-key", ca_file="/ca.pem"),
    }
    save_profiles(path, Profiles("local", profiles))
    return path


@pytest.fixture
def settle(config: Path) -> Callable[..., Settings]:
    def settle(*args: str | None, env: dict[str, str] | None = None, **kwargs: str) -> Settings:
        return resolve(*args, environ={"TRELLIS_CONFIG": str(config), **(env or {})}, **kwargs)

    return settle


def test_arguments_before_the_environment_before_the_profile(settle: Callable[..., Settings]) -> None:
    found = settle()
    assert (found.endpoint, found.api_key, found.tenant) == ("localhost:1111", "local-key", "acme")
    env = {"TRELLIS_ENDPOINT": "localhost:2222", "TRELLIS_API_KEY": "env-key", "TRELLIS_TENANT": "globex"}
    found = settle(env=env)
    assert (found.endpoint, found.api_key, found.tenant) == ("localhost:2222", "env-key", "globex")
    found = settle("localhost:3333", "my-key", tenant="tenants/initech", env=env)
    assert (found.endpoint, found.api_key, found.tenant) == ("localhost:3333", "my-key", "initech")


def test_a_profile_by_name(settle: Callable[..., Settings]) -> None:
    for found in (settle(profile="prod"), settle(env={"TRELLIS_PROFILE": "prod"})):
        assert (found.endpoint, found.address, found.api_key) == (
            "https://trellis.example",
            "trellis.example:443",
            "prod-key",
        )
        assert (found.tls, found.ca_file) == (True, "/ca.pem")
    with pytest.raises(ProfileError, match="local, prod"):
        settle(profile="none")


def test_the_key_of_a_profile_that_nobody_named_goes_nowhere_else(settle: Callable[..., Settings]) -> None:
    assert settle("https://evil.example").api_key == ""
    assert settle("localhost:1111").api_key == "local-key"
    assert settle("https://evil.example", profile="local").api_key == "local-key"


def test_without_anything(tmp_path: Path) -> None:
    found = resolve(environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert found == Settings("localhost:50051", "", "", "localhost:50051", tls=False, ca_file="")
    assert config_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/trellis/config.toml")


@pytest.mark.parametrize(
    ("endpoint", "address", "tls"),
    [
        ("localhost:5", "localhost:5", False),
        ("localhost", "localhost:50051", False),
        ("127.0.0.1:5", "127.0.0.1:5", False),
        ("[::1]:5", "[::1]:5", False),
        ("trellis.example", "trellis.example:443", True),
        ("10.0.0.1:5", "10.0.0.1:5", True),
        ("https://trellis.example/", "trellis.example:443", True),
        ("grpcs://localhost:5", "localhost:5", True),
        ("http://trellis.example", "trellis.example:50051", False),
        ("grpc://10.0.0.1:5", "10.0.0.1:5", False),
        ("unix:/run/trellis.sock", "unix:/run/trellis.sock", False),
    ],
)
def test_endpoints(endpoint: str, address: str, tls: bool) -> None:
    found = resolve(endpoint, environ={"TRELLIS_CONFIG": "/nowhere"})
    assert (found.address, found.tls) == (address, tls)


@pytest.mark.parametrize("endpoint", ["ftp://a", "a b", "a:b", "a:123456", "http://u:p@h", "::1", "a/b", "http://"])
def test_wrong_endpoints(endpoint: str) -> None:
    with pytest.raises(InvalidArgument, match="can't be an endpoint"):
        resolve(endpoint, environ={"TRELLIS_CONFIG": "/nowhere"})


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("localhost:1, 127.0.0.1", "ipv4:127.0.0.1:1,127.0.0.1:50051"),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("http://10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("grpc://[::1]:1,::1/", "ipv6:[::1]:1,[::1]:50051"),
    ],
)
def test_several_servers(endpoint: str, address: str) -> None:
    found = resolve(endpoint, environ={})
    assert (found.address, found.tls, found.endpoint) == (address, False, endpoint)


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://a.example:1,b.example:1", "not 'a.example'"),
        ("127.0.0.1:1,[::1]:1", "all be IPv4, or all IPv6"),
        ("ipv6:127.0.0.1:1,127.0.0.2:1", "all be IPv4, or all IPv6"),
        ("127.0.0.1:1,127.0.0.1:70000", "no port"),
        ("127.0.0.1:1,", "not ''"),
        ("10.0.0.1:1,10.0.0.2:1", "use one name"),
        ("https://127.0.0.1:1,127.0.0.1:2", "use one name"),
    ],
)
def test_wrong_lists_of_servers(endpoint: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match="can't be an endpoint") as caught:
        resolve(endpoint, environ={})
    assert why in str(caught.value)


def test_tls_can_be_said_outright() -> None:
    env = {"TRELLIS_CONFIG": "/nowhere"}
    assert resolve("localhost:1", tls=True, environ=env).tls
    assert not resolve("trellis.example:1", tls=False, environ=env).tls
    found = resolve("localhost:1", tls=Path("/ca.pem"), environ=env)
    assert (found.tls, found.ca_file) == (True, "/ca.pem")


def test_a_key_may_be_asked_for_with_each_call() -> None:
    keys = iter(["first", "second", "two words"])
    found = resolve(
        "localhost:1", lambda: next(keys), environ={"TRELLIS_CONFIG": "/nowhere", "TRELLIS_API_KEY": "other"}
    )
    target = Target.of(found)
    assert [target.metadata, target.metadata] == [
        (("authorization", "Bearer first"),),
        (("authorization", "Bearer second"),),
    ]
    with pytest.raises(InvalidArgument, match="no key has"):
        _ = target.metadata
    assert "second" not in repr(found)


def test_the_files_of_tls_come_from_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    profile = Profile(ca_file="/p.ca", certificate_file="/p.pem", certificate_key_file="/p.key")
    save_profiles(path, Profiles("one", {"one": profile}))
    env = {"TRELLIS_CONFIG": str(path)}

    def files(**more: Any) -> tuple[bool, str, str, str]:
        found = resolve("localhost:1", **{"environ": env, **more})
        return found.tls, found.ca_file, found.certificate_file, found.certificate_key_file

    assert files() == (True, "/p.ca", "/p.pem", "/p.key")
    variables = {
        "TRELLIS_CA_FILE": "/e.ca",
        "TRELLIS_CERTIFICATE_FILE": "/e.pem",
        "TRELLIS_CERTIFICATE_KEY_FILE": "/e.key",
    }
    assert files(environ=env | variables) == (True, "/e.ca", "/e.pem", "/e.key")
    given = {"tls": "/a.ca", "certificate": (Path("/a.pem"), "/a.key")}
    assert files(environ=env | variables, **given) == (True, "/a.ca", "/a.pem", "/a.key")
    assert files(tls=False) == (False, "", "", "")
    del variables["TRELLIS_CERTIFICATE_KEY_FILE"]
    with pytest.raises(InvalidArgument, match="two files"):
        files(environ=env | variables)


def test_a_key_that_no_key_can_be_is_refused_without_being_shown() -> None:
    with pytest.raises(InvalidArgument) as caught:
        resolve("localhost:1", "two words", environ={"TRELLIS_CONFIG": "/nowhere"})
    assert "two words" not in str(caught.value)


def test_the_file_is_its_owners_alone_and_reads_back(config: Path) -> None:
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert load_profiles(config).profiles["prod"].ca_file == "/ca.pem"
    odd = Profile(endpoint='a"b\\c\n\x7f\u00e9', tenant="=")
    save_profiles(config, Profiles("", {"x": odd}))
    assert load_profiles(config) == Profiles("", {"x": odd})
    assert [path.name for path in config.parent.iterdir()] == ["config.toml"]
    with pytest.raises(ProfileError, match="can't name"):
        save_profiles(config, Profiles("", {"a b": odd}))


@pytest.mark.parametrize(
    "text", ["= broken", "profiles = 3", "[profiles.a]\nendpoint = 3", '[profiles.a]\nnope = "x"', "[profiles]\na = 1"]
)
def test_a_broken_file_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ProfileError, match=r"config\.toml"):
        load_profiles(tmp_path / "config.toml")


def test_a_key_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("file-key\n")
    config = tmp_path / "config.toml"
    save_profiles(config, Profiles("a", {"a": Profile(api_key_file=str(tmp_path / "key"))}))
    assert resolve(environ={"TRELLIS_CONFIG": str(config)}).api_key == "file-key"
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ProfileError, match="is empty"):
        resolve(environ={"TRELLIS_CONFIG": str(config)})
    (tmp_path / "key").unlink()
    with pytest.raises(ProfileError, match="can't be read"):
        resolve(environ={"TRELLIS_CONFIG": str(config)})


def test_no_key_is_in_any_repr() -> None:
    settings = resolve("localhost:1", "tr_secret", environ={"TRELLIS_CONFIG": "/nowhere"})
    assert "tr_secret" not in repr(settings) + repr(Profile(api_key="tr_secret"))
