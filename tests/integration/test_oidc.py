"""Tokens that a real issuer has signed, over a real gRPC socket."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.issuer import LocalIssuer, new_ec
from tests.rpc_server import Refusal, refusal, stop
from tests.server_fakes import World

from trellis.server.domain.caller import Role, Scope
from trellis.server.oidc.issuers import Grant, Issuer
from trellis.server.oidc.key_set import FRESH_SECONDS, KEPT_SECONDS, PAUSE_SECONDS, KeySet
from trellis.server.oidc.verify import JwtVerifier
from trellis.server.rpc.server import build_grpc_server
from trellis.v1 import api_key_pb2, dataset_pb2, tenant_pb2
from trellis.v1.api_key_pb2_grpc import ApiKeyServiceStub
from trellis.v1.dataset_pb2_grpc import DatasetServiceStub
from trellis.v1.tenant_pb2_grpc import TenantServiceStub


class Hands:
    """A clock for the keys' ages, which a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(frozen=True, slots=True)
class House:
    """A server that trusts one issuer."""

    issuer: LocalIssuer
    world: World
    channel: grpc.aio.Channel
    hands: Hands

    def token(self, key: str = "rsa", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token that is right, but for what is said otherwise."""
        now = int(self.world.clock.now().timestamp())
        sound = {"aud": "trellis", "sub": "alice", "exp": now + 300, "iat": now, "team": "acme", "groups": ["tuners"]}
        return self.issuer.token(key, headers, **{**sound, **claims})

    async def tenant(self, token: str, name: str = "acme") -> str:
        """The name of a tenant, read with the token."""
        request = tenant_pb2.GetTenantRequest(name=f"tenants/{name}")
        found = await TenantServiceStub(self.channel).GetTenant(request, metadata=bearing(token))
        return str(found.name)

    async def refused(self, token: str, name: str = "acme") -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.tenant(token, name)
        return refusal(caught.value)

    async def failed_check(self, token: str) -> str:
        said = await self.refused(token)
        assert (said.code, said.reason) == ("UNAUTHENTICATED", "TOKEN_INVALID")
        for part in token.split("."):
            assert len(part) < 9 or part not in said.message
        for secret in ("alice", "acme", "tuners", "elsewhere"):
            assert secret not in said.message
        return str(said.details["ErrorInfo"].metadata["check"])


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    with LocalIssuer() as running:
        yield running


GRANTS = (
    Grant(Role.MEMBER, "tuners"),
    Grant(Role.TENANT_ADMIN, "leads"),
    Grant(Role.ADMIN, "operators"),
    Grant(Role.MEMBER, "readers", frozenset({Scope.READ})),
    Grant(Role.MEMBER, "callers", frozenset({Scope.GENERATE})),
    Grant(Role.TENANT_ADMIN, "globex-leads", tenant="globex"),
)


@asynccontextmanager
async def serving(world: World, issuer: LocalIssuer, **changes: Any) -> AsyncIterator[House]:
    trusted = Issuer(issuer.url, ("trellis",), tenant_claim="team", role_claim="groups", grants=GRANTS)
    hands = Hands()

    class HandedKeySet(KeySet):
        def __init__(self, one: Issuer) -> None:
            super().__init__(one, clock=hands)

    verifier = JwtVerifier([replace(trusted, **changes)], HandedKeySet)
    context = replace(world.context, tokens=verifier)
    server = build_grpc_server(context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield House(issuer, world, channel, hands)
    await stop(context, server)


@pytest.fixture
async def house(world: World, issuer: LocalIssuer) -> AsyncIterator[House]:
    async with serving(world, issuer) as opened:
        yield opened


async def test_signed_tokens_open_what_their_claims_give(house: House) -> None:
    for key in ("rsa", "ec"):
        assert await house.tenant(house.token(key)) == "tenants/acme"
    assert house.issuer.asked == 1  # kept for all calls
    assert (await house.refused(house.token(), "globex")).code == "PERMISSION_DENIED"
    assert await house.tenant(house.token(team="globex"), "globex") == "tenants/globex"
    listing = tenant_pb2.ListTenantsRequest()
    admin = bearing(house.token(team=None, groups=["tuners", "operators"]))
    assert len((await TenantServiceStub(house.channel).ListTenants(listing, metadata=admin)).tenants) == 2


async def test_a_role_of_another_tenant_gives_nothing_here(house: House) -> None:
    token = house.token(groups=["globex-leads"])
    assert await house.failed_check(token) == "role"
    keys = ApiKeyServiceStub(house.channel)
    both = bearing(house.token(groups=["tuners", "globex-leads"]))
    for tenant in ("acme", "globex"):  # a member in one, and in the other nobody: the token is not for it
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await keys.ListApiKeys(api_key_pb2.ListApiKeysRequest(parent=f"tenants/{tenant}"), metadata=both)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    lead = bearing(house.token(team="globex", groups=["globex-leads"]))
    await keys.ListApiKeys(api_key_pb2.ListApiKeysRequest(parent="tenants/globex"), metadata=lead)


async def test_scopes_of_a_grant_narrow_the_caller(house: House) -> None:
    datasets = DatasetServiceStub(house.channel)
    listing = dataset_pb2.ListDatasetsRequest(parent="tenants/acme")
    await datasets.ListDatasets(listing, metadata=bearing(house.token(groups=["readers", "callers"])))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await datasets.ListDatasets(listing, metadata=bearing(house.token(groups=["callers"])))
    assert "scope READ; the key is narrowed to GENERATE" in (caught.value.details() or "")
    creating = dataset_pb2.CreateDatasetRequest(parent="tenants/acme", dataset_id="d")
    await datasets.CreateDataset(creating, metadata=bearing(house.token(groups=["readers", "tuners"])))


@pytest.mark.parametrize(
    ("claims", "check"),
    [
        ({"aud": "elsewhere"}, "audience"),
        ({"aud": ["elsewhere", 7]}, "audience"),
        ({"aud": None}, "audience"),
        ({"exp": None}, "expiry"),
        ({"exp": 1}, "expiry"),
        ({"exp": "soon"}, "times"),
        ({"exp": True}, "times"),
        ({"nbf": 9_999_999_999}, "not before"),
        ({"iat": 9_999_999_999}, "not before"),
        ({"sub": None}, "subject"),
        ({"sub": "a" * 256}, "subject"),
        ({"sub": "two\nlines"}, "subject"),
        ({"iss": "http://127.0.0.1:1/elsewhere"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"team": "elsewhere"}, "tenant"),
        ({"team": "acme\n"}, "tenant"),
        ({"team": "acme\x00"}, "tenant"),
        ({"team": "../globex"}, "tenant"),
        ({"team": None}, "tenant"),
        ({"team": ["acme", "globex"]}, "tenant"),
        ({"team": {"acme": 1}}, "tenant"),
        ({"groups": []}, "role"),
        ({"groups": "others"}, "role"),
        ({"groups": None}, "role"),
    ],
)
async def test_wrong_claims_are_refused_with_the_check_that_failed(
    house: House, claims: dict[str, Any], check: str
) -> None:
    assert await house.failed_check(house.token(**claims)) == check


async def test_times_have_the_skew_and_no_more(house: House) -> None:
    now, skew = house.world.clock.now().timestamp(), 30
    assert await house.tenant(house.token(exp=now - skew + 1, nbf=now + skew - 1)) == "tenants/acme"
    assert await house.failed_check(house.token(exp=now - skew)) == "expiry"
    assert await house.failed_check(house.token(nbf=now + skew + 1)) == "not before"


async def test_signatures_that_prove_nothing_are_refused(house: House) -> None:
    token = house.token()
    head, body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    other = {**claims, "groups": ["operators"]}
    changed = base64.urlsafe_b64encode(json.dumps(other).encode()).rstrip(b"=").decode()
    public = house.issuer.keys["rsa"][0].public_key()
    numbers = public.public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    house.issuer.keys["mallory"] = (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256")
    for wrong, check in {
        f"{head}.{changed}.{signature}": "signature",
        f"{head}.{body}.": "signature",
        jwt.encode(claims, None, algorithm="none", headers={"kid": "rsa"}): "algorithm",
        jwt.encode(claims, numbers.n.to_bytes(256, "big"), algorithm="HS256", headers={"kid": "rsa"}): "algorithm",
        house.token("ec", {"kid": "rsa"}): "key",
        house.token("mallory", {"kid": "rsa"}): "signature",
        house.token("mallory"): "key",
        house.token("mallory", {"kid": ""}): "signature",
        f"{head}.{body}": "",
        f"{head}.{body}.{signature}.{signature}": "",
        "a.b.c": "form",
        f"{'A' * 17_000}.b.c": "form",
    }.items():
        if check:
            assert await house.failed_check(wrong) == check, wrong[:60]
        else:
            assert (await house.refused(wrong)).reason == "API_KEY_INVALID"
    for right in (token, house.token("rsa", {"kid": ""})):  # of its algorithm there is one key alone
        assert await house.tenant(right) == "tenants/acme"


async def test_keys_may_be_exchanged(house: House) -> None:
    assert await house.tenant(house.token()) == "tenants/acme"
    house.issuer.keys["new"] = (new_ec(), "ES256")
    house.issuer.published = ["new"]
    fresh = house.token("new")
    assert await house.failed_check(fresh) == "key"  # asked a moment ago
    house.hands.seconds += PAUSE_SECONDS
    assert await house.tenant(fresh) == "tenants/acme"
    assert house.issuer.asked == 2
    assert await house.failed_check(house.token("rsa")) == "key"
    house.hands.seconds += PAUSE_SECONDS - 1
    for number in range(5):  # keys that are made up ask the issuer no more often
        assert await house.failed_check(house.token("rsa", {"kid": f"made-up-{number}"})) == "key"
    assert house.issuer.asked == 2


async def test_an_issuer_that_is_down_is_waited_for_and_its_keys_kept_for_a_time(house: House) -> None:
    house.issuer.stop()
    said = await house.refused(house.token())
    assert (said.code, said.reason) == ("UNAVAILABLE", "ISSUER_UNAVAILABLE")
    assert "RetryInfo" in said.details
    house.issuer.start()
    assert (await house.refused(house.token())).code == "UNAVAILABLE"  # asked a moment ago
    house.hands.seconds += PAUSE_SECONDS
    assert await house.tenant(house.token()) == "tenants/acme"
    house.issuer.stop()
    house.hands.seconds += KEPT_SECONDS - 1
    assert await house.tenant(house.token()) == "tenants/acme"
    house.hands.seconds += PAUSE_SECONDS
    assert (await house.refused(house.token())).code == "UNAVAILABLE"


async def test_old_keys_are_fetched_again_while_they_still_count(house: House) -> None:
    await house.tenant(house.token())
    house.issuer.published = ["ec"]
    house.hands.seconds += FRESH_SECONDS
    assert await house.tenant(house.token()) == "tenants/acme"
    for _ in range(500):  # until the fetch beside the calls is done
        try:
            await house.tenant(house.token())
        except grpc.aio.AioRpcError:
            break
    assert await house.failed_check(house.token()) == "key"
    assert await house.tenant(house.token("ec")) == "tenants/acme"


async def test_what_an_issuer_publishes_is_not_believed_blindly(world: World, issuer: LocalIssuer) -> None:
    for document in (
        {"issuer": "https://elsewhere.example"},
        {"jwks_uri": "http://elsewhere.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": f"{issuer.url}/nothing"},
    ):
        issuer.document = document
        async with serving(world, issuer) as house:
            assert (await house.refused(house.token())).reason == "ISSUER_UNAVAILABLE"
    async with serving(world, issuer, jwks_uri=f"{issuer.url}/keys") as house:
        assert await house.tenant(house.token()) == "tenants/acme"


async def test_a_server_that_trusts_nobody_takes_no_tokens(world: World, issuer: LocalIssuer) -> None:
    async with serving(world, issuer) as house:
        token = house.token()
    server = build_grpc_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        said = await House(issuer, world, channel, Hands()).refused(token)
        assert (said.code, said.reason) == ("UNAUTHENTICATED", "TOKEN_INVALID")
    await stop(world.context, server)
