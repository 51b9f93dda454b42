"""A tenant sees and touches its own things only; a key that has ended opens nothing."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.e2e import lines, tuning
from tests.e2e.conftest import Team
from tests.e2e.platform import Platform

import trellis
from trellis.client.types import Role


@dataclass(frozen=True, slots=True)
class Their:
    """What another tenant has, or might have."""

    tenant: str
    job: str
    adapter: str

    def part(self, name: str) -> str:
        return f"{self.tenant}/{name}"

    def of(self, tenant: str) -> "Their":
        """The same of a tenant that does not exist."""
        return Their(
            *(name.replace(self.tenant, f"tenants/{tenant}") for name in (self.tenant, self.job, self.adapter))
        )


Call = Callable[[trellis.Client, Their, Path], object]

CALLS: dict[str, Call] = {
    "get the tenant": lambda c, their, _: c.tenants.get(their.tenant),
    "delete the tenant": lambda c, their, _: c.tenants.delete(their.tenant, force=True),
    "list tenants": lambda c, _o, _: list(c.tenants.list()),
    "create a tenant": lambda c, _o, _: c.tenants.create("mine-too"),
    "create a key": lambda c, their, _: c.api_keys.create(their.tenant),
    "list keys": lambda c, their, _: list(c.api_keys.list(their.tenant)),
    "get a key": lambda c, their, _: c.api_keys.get(their.part("apiKeys/key-1")),
    "revoke a key": lambda c, their, _: c.api_keys.revoke(their.part("apiKeys/key-1")),
    "create an admin's key": lambda c, _o, _: c.api_keys.create("platform", role=Role.ADMIN),
    "list the platform's keys": lambda c, _o, _: list(c.api_keys.list("platform")),
    "register a base": lambda c, _o, _: c.base_models.create("mine", source="/etc"),
    "delete the base": lambda c, _o, _: c.base_models.delete("trellis-tiny"),
    "create a dataset": lambda c, their, _: c.datasets.create("theirs", tenant=their.tenant),
    "list datasets": lambda c, their, _: list(c.datasets.list(tenant=their.tenant)),
    "get a dataset": lambda c, their, _: c.datasets.get(their.part("datasets/boxes")),
    "delete a dataset": lambda c, their, _: c.datasets.delete(their.part("datasets/boxes")),
    "list versions": lambda c, their, _: list(c.datasets.list_versions(their.part("datasets/boxes"))),
    "get a version": lambda c, their, _: c.datasets.get_version(their.part("datasets/boxes/versions/latest")),
    "read a report": lambda c, their, _: c.datasets.report(their.part("datasets/boxes/versions/latest")),
    "download a version": lambda c, their, path: c.datasets.download(
        their.part("datasets/boxes/versions/latest"), path / "theirs"
    ),
    "upload": lambda c, their, _: c.datasets.upload(
        io.BytesIO(lines.chat_lines(lines.FOODS)), dataset=their.part("datasets/boxes"), filename="a.jsonl"
    ),
    "create a job": lambda c, their, _: c.jobs.create(their.part("datasets/boxes"), tenant=their.tenant),
    "list jobs": lambda c, their, _: list(c.jobs.list(tenant=their.tenant)),
    "list all tenants' jobs": lambda c, _o, _: list(c.jobs.list(tenant="-")),
    "get a job": lambda c, their, _: c.jobs.get(their.job),
    "cancel a job": lambda c, their, _: c.jobs.cancel(their.job),
    "delete a job": lambda c, their, _: c.jobs.delete(their.job),
    "watch a job": lambda c, their, _: list(c.jobs.watch(their.job)),
    "wait for a job": lambda c, their, _: c.jobs.wait(their.job),
    "read logs": lambda c, their, _: list(c.jobs.logs(their.job, follow=True)),
    "read metrics": lambda c, their, _: list(c.jobs.metrics(their.job)),
    "list checkpoints": lambda c, their, _: list(c.jobs.checkpoints(their.job)),
    "list adapters": lambda c, their, _: list(c.adapters.list(tenant=their.tenant)),
    "get an adapter": lambda c, their, _: c.adapters.get(their.adapter),
    "download an adapter": lambda c, their, path: c.adapters.download(their.adapter, path / "a"),
    "delete an adapter": lambda c, their, _: c.adapters.delete(their.adapter),
    "deploy an adapter": lambda c, their, _: c.adapters.deploy(their.adapter),
    "undeploy an adapter": lambda c, their, _: c.adapters.undeploy(their.adapter),
    "get an alias": lambda c, their, _: c.aliases.get(their.part("aliases/boxes")),
    "list aliases": lambda c, their, _: list(c.aliases.list(tenant=their.tenant)),
    "set an alias": lambda c, their, _: c.aliases.set(their.part("aliases/boxes"), their.adapter),
    "delete an alias": lambda c, their, _: c.aliases.delete(their.part("aliases/boxes")),
    "call an adapter": lambda c, their, _: c.generate(their.adapter, "hello?"),
    "call an alias": lambda c, their, _: c.generate(their.part("aliases/boxes"), "hello?"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_what_is_another_tenants_is_refused_and_not_told_of(
    call: Call, globex: Team, initech: Team, tmp_path: Path
) -> None:
    theirs = Their(f"tenants/{globex.name}", globex.done.name, globex.done.adapter)
    messages = []
    for their in (theirs, theirs.of("nobody")):
        with pytest.raises(trellis.PermissionDenied) as caught:
            call(initech.client, their, tmp_path)
        assert caught.value.reason == "ACCESS_DENIED"
        messages.append(str(caught.value).replace(their.tenant, "tenants/OWNER"))
    assert messages[0] == messages[1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_is_another_tenants_can_not_be_built_on(globex: Team, initech: Team) -> None:
    client, before = initech.client, len(list(initech.client.jobs.list()))
    for owner in (globex.name, "nobody"):
        with pytest.raises(trellis.PermissionDenied):
            client.jobs.create(f"tenants/{owner}/datasets/boxes", tenant=initech.name)
        with pytest.raises(trellis.PermissionDenied):
            client.jobs.create(tuning.DATASET, validation_dataset=f"tenants/{owner}/datasets/boxes")
        with pytest.raises(trellis.PermissionDenied):
            client.jobs.create(tuning.DATASET, alias=f"tenants/{owner}/aliases/boxes")
        with pytest.raises(trellis.PermissionDenied):
            client.aliases.set("theirs", globex.done.adapter.replace(globex.name, owner))
    assert len(list(client.jobs.list())) == before
    assert "theirs" not in {alias.name.rpartition("/")[2] for alias in client.aliases.list()}


def test_a_member_may_use_but_not_hand_out_keys(platform: Platform, initech: Team) -> None:
    secret = initech.client.api_keys.create(display_name="a member").secret
    with platform.client(secret, initech.name) as member:
        assert member.datasets.get(tuning.DATASET).latest_version
        for role in (Role.MEMBER, Role.TENANT_ADMIN):
            with pytest.raises(trellis.PermissionDenied):
                member.api_keys.create(role=role)


def test_a_revoked_key_opens_nothing(platform: Platform, initech: Team) -> None:
    made = initech.client.api_keys.create(display_name="to be revoked")
    with platform.client(made.secret, initech.name) as client:
        assert list(client.datasets.list())
        initech.client.api_keys.revoke(made.api_key.name)
        assert refused(client) == "API_KEY_REVOKED"


def test_an_expired_key_opens_nothing(platform: Platform, initech: Team, until: Callable[..., object]) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    secret = initech.client.api_keys.create(expire_time=soon).secret
    with platform.client(secret, initech.name) as client:
        assert list(client.datasets.list())
        until(lambda: datetime.now(UTC) > soon, "the key expires")
        assert refused(client) == "API_KEY_EXPIRED"


@pytest.mark.parametrize("secret", ["trk_" + "0" * 40, "nonsense", ""])
def test_a_key_that_nobody_made_opens_nothing(platform: Platform, initech: Team, secret: str) -> None:
    with trellis.Client(platform.endpoint, secret or None, tenant=initech.name) as client:
        assert refused(client) == "API_KEY_INVALID"


def refused(client: trellis.Client) -> str:
    """Why; the same for calls of all kinds."""
    reasons = set()
    calls: tuple[Callable[[], object], ...] = (
        lambda: list(client.datasets.list()),
        lambda: client.generate(tuning.DATASET, "hello?"),
        lambda: client.datasets.upload(io.BytesIO(b"{}"), dataset="new", filename="a.jsonl"),
    )
    for call in calls:
        with pytest.raises(trellis.Unauthenticated) as caught:
            call()
        reasons.add(caught.value.reason)
    (reason,) = reasons
    return reason
