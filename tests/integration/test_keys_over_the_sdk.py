"""Keys that are narrowed, rotated and revoked, through the SDK and a real server."""

from datetime import UTC, datetime, timedelta

import pytest
from tests.rpc_server import Door

import trellis


def client(door: Door, secret: str) -> trellis.AsyncClient:
    return trellis.AsyncClient(door.address, secret, tenant="acme")


async def test_a_narrow_key_is_made_used_and_rotated(door: Door) -> None:
    async with client(door, door.secrets["tenant-admin"]) as admin:
        end = datetime(2027, 1, 1, tzinfo=UTC)
        made = await admin.api_keys.create(scopes=[trellis.Scope.READ], expire_time=end, display_name="dashboards")
        key = made.api_key
        assert (key.scopes, key.expire_time, key.role) == ((trellis.Scope.READ,), end, trellis.Role.MEMBER)
        async with client(door, made.secret) as narrow:
            assert [dataset async for dataset in narrow.datasets.list()] == []
            with pytest.raises(trellis.PermissionDenied, match="scope WRITE; the key is narrowed to READ") as caught:
                await narrow.datasets.create("faq")
            assert caught.value.reason == "ACCESS_DENIED"
            with pytest.raises(trellis.PermissionDenied, match="role TENANT_ADMIN"):
                await narrow.api_keys.create()
        fresh = await admin.api_keys.rotate(key.name, overlap=timedelta(hours=1))
        assert fresh.api_key.scopes == key.scopes
        assert fresh.secret.startswith(fresh.api_key.prefix)
        for secret in (made.secret, fresh.secret):
            async with client(door, secret) as narrow:
                assert (await narrow.tenants.get("acme")).name == "tenants/acme"
        door.world.clock.advance(3600)
        async with client(door, made.secret) as narrow:
            with pytest.raises(trellis.Unauthenticated, match="was given a new secret"):
                await narrow.tenants.get("acme")
        await door.world.context.key_uses.write(door.world.context.units)
        assert (await admin.api_keys.get(key.name)).last_use_time is not None
        with pytest.raises(trellis.InvalidArgument, match="30 days"):
            await admin.api_keys.rotate(key.name, overlap=timedelta(days=31))
        await admin.api_keys.revoke(key.name)
        with pytest.raises(trellis.FailedPrecondition, match="revoked"):
            await admin.api_keys.rotate(key.name)


async def test_a_narrow_admin_gives_away_no_more(door: Door) -> None:
    async with client(door, door.secrets["tenant-admin"]) as admin:
        wide = (await admin.api_keys.create()).api_key
        manager = await admin.api_keys.create(role=trellis.Role.TENANT_ADMIN, scopes=[trellis.Scope.MANAGE])
    async with client(door, manager.secret) as narrow:
        for deed in (
            narrow.api_keys.create(),
            narrow.api_keys.create(scopes=[trellis.Scope.READ]),
            narrow.api_keys.rotate(wide.name),
        ):
            with pytest.raises(trellis.PermissionDenied, match="narrowed to MANAGE"):
                await deed
        assert (await narrow.api_keys.create(scopes=[trellis.Scope.MANAGE])).api_key.scopes == (trellis.Scope.MANAGE,)
        assert (await narrow.api_keys.revoke(wide.name)).revoke_time is not None
