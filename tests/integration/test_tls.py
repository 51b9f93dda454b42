"""TLS and mutual TLS over real sockets, through the SDK and as jobs call."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.authority import Authority, Pair
from tests.rpc_server import stop
from tests.server_fakes import World, admit, submit, upload

import trellis
from trellis.client._tls import misconfigured
from trellis.local.ports import free_ports
from trellis.server.app.authentication import create_first_admin_key
from trellis.server.config import Address, ConfigError, ServerConfig
from trellis.server.listeners import listening_servers
from trellis.server.rpc.certificates import CertificateError, CertificateFiles, server_credentials
from trellis.server.rpc.metrics import EXPIRES
from trellis.server.rpc.server import build_grpc_server, make_health
from trellis.server.tls_options import TlsOptions
from trellis_jobs.server import RefusedError, Server

NO_CONNECTION = "failed to connect to all addresses"
Path_ = str | os.PathLike[str]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@dataclass(frozen=True, slots=True)
class House:
    """A server that listens, and the first admin's key."""

    port: int
    jobs_port: int
    key: str

    def client(
        self, tls: bool | Path_ | None = None, certificate: Pair | None = None, host: str = ""
    ) -> trellis.Client:
        pair = (certificate.certificate, certificate.key) if certificate else None
        endpoint = f"{host or 'localhost'}:{self.port}"
        return trellis.Client(
            endpoint, self.key, tls=tls, certificate=pair, retry=trellis.Retry(attempts=1), timeout=20.0
        )


@asynccontextmanager
async def serving(world: World, tls: TlsOptions, *, jobs: bool = False) -> AsyncIterator[House]:
    key = await create_first_admin_key(world.context) or ""
    port, jobs_port = free_ports(2)
    config = ServerConfig(
        "", "", Path(), "", grpc_address=Address("127.0.0.1", port), tls=tls,
        worker_address=Address("127.0.0.1", jobs_port) if jobs else None,
    )  # fmt: skip
    health = make_health()
    servers = listening_servers(config, world.context, health, build_grpc_server(world.context, health))
    for server in servers:
        await server.start()
    try:
        yield House(port, jobs_port, key)
    finally:
        for server in servers:
            await stop(world.context, server)


async def seen(client: trellis.Client) -> str:
    """What a call of the blocking client brings, or how it fails."""

    def call() -> str:
        with client:
            try:
                return client.tenants.get("acme").name
            except trellis.TrellisError as error:
                return f"{error.STATUS}: {error}"

    return await asyncio.to_thread(call)


def options(pair: Pair, **changes: str) -> TlsOptions:
    return TlsOptions(str(pair.certificate), str(pair.key), **changes)


async def test_calls_uploads_and_streams_over_tls(world: World, authority: Authority, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    async with serving(world, options(authority.issue("server"))) as house:
        assert await seen(house.client(authority.file)) == "tenants/acme"
        (expires,) = (sample.value for sample in EXPIRES.collect()[0].samples)
        assert 0 < expires - time.time() < 2 * 24 * 3600
        async with trellis.AsyncClient(
            f"https://localhost:{house.port}", house.key, tls=authority.file, tenant="acme"
        ) as client:
            assert (await client.tenants.get("acme")).name == "tenants/acme"
            version = await client.datasets.upload(data, dataset="pairs", wait=False)
            assert [d.name async for d in client.datasets.list()] == ["tenants/acme/datasets/pairs"]
            assert version.name.startswith("tenants/acme/datasets/pairs/versions/")


async def test_the_health_check_works_over_it(world: World, authority: Authority) -> None:
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    async with serving(world, options(authority.issue("server")), jobs=True) as house:
        for port, service in ((house.port, "trellis.v1.TenantService"), (house.jobs_port, "trellis.v1.WorkerService")):
            async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_plain_text_at_a_port_of_tls_is_said(world: World, authority: Authority, asynchronous: bool) -> None:
    async with serving(world, options(authority.issue("server"))) as house:
        if asynchronous:
            async with trellis.AsyncClient(f"http://localhost:{house.port}", house.key) as client:
                with pytest.raises(trellis.InvalidArgument, match="speaks TLS, but this client does not: say https://"):
                    await client.tenants.get("acme")
        else:
            found = await seen(house.client())
            assert "INVALID_ARGUMENT" in found
            assert "speaks TLS, but this client does not: say https://" in found


async def test_tls_at_a_port_of_plain_text_is_said(world: World, authority: Authority) -> None:
    async with serving(world, TlsOptions()) as house:
        found = await seen(house.client(authority.file))
        assert "INVALID_ARGUMENT" in found
        assert "does not speak TLS, but this client does" in found
        assert await seen(house.client()) == "tenants/acme"


async def test_a_certificate_of_somebody_else_is_said(world: World, authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    async with serving(world, options(authority.issue("server"))) as house:
        for trusted in (other.file, True):
            assert "not vouched for by anyone whom this client trusts" in await seen(house.client(trusted))
    async with serving(world, options(authority.issue("elsewhere", "elsewhere.example"))) as house:
        assert "is for another host" in await seen(house.client(authority.file))


async def test_a_server_that_is_away_is_not_taken_for_one_with_tls(world: World, authority: Authority) -> None:
    port, jobs_port = free_ports(2)
    house = House(port, jobs_port, "trk_x")
    for client in (house.client(), house.client(authority.file)):
        found = await seen(client)
        assert found.startswith("UNAVAILABLE")
        assert "can't be reached" in found


async def test_mutual_tls_lets_in_those_with_a_certificate(world: World, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    tls = options(authority.issue("server"), client_ca_file=str(authority.file))
    async with serving(world, tls, jobs=True) as house:
        assert await seen(house.client(authority.file, authority.issue("alice"))) == "tenants/acme"
        assert "asks every client for a certificate" in await seen(house.client(authority.file))
        found = await seen(house.client(authority.file, stranger.issue("mallory")))
        assert "does not accept the certificate" in found
        assert "speaks TLS" in await seen(house.client())


async def test_a_server_that_was_away_a_moment_ago_is_not_taken_for_one_that_refuses(
    world: World, authority: Authority
) -> None:
    mine = authority.issue("alice")
    tls = options(authority.issue("server"), client_ca_file=str(authority.file))
    async with serving(world, tls, jobs=True) as house:
        cut = FailedCall(f"{NO_CONNECTION}; last error: UNAVAILABLE: Socket closed")
        for certificate, refuses in ((mine, False), (None, True)):
            with house.client(authority.file, certificate) as client:
                found = await asyncio.to_thread(misconfigured, cut, client.settings)
                assert (found is not None) == refuses


class FailedCall:
    """What gRPC says of a connection that was cut before it was one."""

    def __init__(self, said: str) -> None:
        self._said = said

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._said

    def trailing_metadata(self) -> None:
        return None


async def test_new_files_count_for_the_next_connection(world: World, authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("server")
    other = Authority(tmp_path, "other")
    async with serving(world, options(pair)) as house:
        before = house.client(authority.file)
        assert (await asyncio.to_thread(before.tenants.get, "acme")).name == "tenants/acme"
        renewed = other.issue("renewed")
        pair.key.write_bytes(b"half a key")
        assert await seen(house.client(authority.file)) == "tenants/acme"  # the old pair, while the new one is no pair
        pair.key.write_bytes(renewed.key.read_bytes())
        pair.certificate.write_bytes(renewed.certificate.read_bytes())
        assert await seen(house.client(other.file)) == "tenants/acme"
        assert "not vouched for" in await seen(house.client(authority.file))
        assert (await asyncio.to_thread(before.tenants.get, "acme")).name == "tenants/acme"  # its connection lasts
        before.close()


async def test_jobs_call_at_an_address_of_their_own(
    world: World, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(world.context, "acme")
    token, _ = await admit(world.context, await submit(world.context, "acme"))
    monkeypatch.setenv("TRELLIS_WORKER_CA", authority.file.read_text())
    tls = options(authority.issue("server"), client_ca_file=str(authority.file))
    async with serving(world, tls, jobs=True) as house:
        server = Server(f"https://localhost:{house.jobs_port}", token)
        try:
            started = await asyncio.to_thread(server.start, "v1")
            assert started.tuning_job.startswith("tenants/acme/tuningJobs/")
        finally:
            server.close()
        known = Server(f"https://localhost:{house.jobs_port}", house.key, on_fenced=lambda: None)
        try:
            with pytest.raises(RefusedError, match="This needs the role ATTEMPT"):
                await asyncio.to_thread(known.start, "v1")
        finally:
            known.close()
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{house.jobs_port}", credentials) as channel:
            call = channel.unary_unary("/trellis.v1.TenantService/ListTenants")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", metadata=(("authorization", f"Bearer {house.key}"),))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def without(pair: Pair) -> CertificateFiles:
    pair.key.unlink()
    return CertificateFiles(pair.certificate, pair.key)


def mixed(pair: Pair) -> CertificateFiles:
    return CertificateFiles(pair.certificate, Authority(pair.key.parent, "third").issue("third").key)


def no_authority(pair: Pair) -> CertificateFiles:
    return CertificateFiles(pair.certificate, pair.key, pair.key)


@pytest.mark.parametrize(
    ("files", "message"), [(without, "can't be read"), (mixed, "are not a PEM"), (no_authority, "of a CA")]
)
def test_files_of_no_use_are_named_at_the_start(
    authority: Authority, files: Callable[[Pair], CertificateFiles], message: str
) -> None:
    with pytest.raises(CertificateError, match=message):
        server_credentials(files(authority.issue("server")))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CERTIFICATE_FILE": "a"}, "both or neither"),
        ({"CLIENT_CA_FILE": "a"}, "needs certificate_file"),
        ({"CERTIFICATE_FILE": "a", "KEY_FILE": "b", "CLIENT_CA_FILE": "c"}, "TRELLIS_WORKER_ADDRESS must be set"),
    ],
)
def test_settings_that_cannot_be_together(variables: dict[str, str], message: str) -> None:
    required = {"DATABASE_URL": "sqlite+aiosqlite:///x", "STORE_URL": "x", "SECRET_FILE": "s", "RAY_DASHBOARD_URL": "h"}
    environment = {f"TRELLIS_{name}": value for name, value in required.items()}
    with pytest.raises(ConfigError, match=message):
        ServerConfig.from_environment(environment | {f"TRELLIS_TLS_{name}": value for name, value in variables.items()})


def test_jobs_are_told_to_speak_tls() -> None:
    tls = TlsOptions("a", "b")
    address = Address("10.0.0.1", 1)
    config = ServerConfig("", "", Path(), "", grpc_address=address, tls=tls)
    assert config.advertised_endpoint == "https://10.0.0.1:1"
    assert ServerConfig("", "", Path(), "", grpc_address=address).advertised_endpoint == "10.0.0.1:1"
    behind = ServerConfig("", "", Path(), "", grpc_address=address, worker_endpoint="https://proxy:443")
    assert behind.advertised_endpoint == "https://proxy:443"
    jobs = ServerConfig("", "", Path(), "", grpc_address=address, tls=tls, worker_address=Address("10.0.0.1", 2))
    assert jobs.advertised_endpoint == "https://10.0.0.1:2"
