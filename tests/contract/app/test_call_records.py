"""What calls took that end at the same time: all of it in the ledger, once, whoever else is among them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.app.test_adapters import ALIAS, folder
from tests.contract.app.test_inference import TalkingEngine, asking, deployed
from tests.contract.app.test_quota_limits import limit
from tests.server_fakes import ADMIN, World, collected, used

from trellis.errors import Reason, TrellisError
from trellis.names import TenantName
from trellis.server.app import adapters, api_keys, authentication, inference, tenants
from trellis.server.app.call_records import CallRecord
from trellis.server.app.context import Context
from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.app.ports import RowsHeld
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller, Role
from trellis.server.domain.derived import derive
from trellis.server.domain.ledger import Meter
from trellis.server.domain.prices import FREE
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse

__all__ = ["folder"]
AT_ONCE = 24


class MeetingEngine(TalkingEngine):
    """Answers when so many calls are there, so that they end together."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.barrier = asyncio.Barrier(count)

    async def stream_tokens(
        self, base_model_id: str, request: StreamTokensRequest
    ) -> AsyncIterator[StreamTokensResponse]:
        await self.barrier.wait()
        async for piece in super().stream_tokens(base_model_id, request):
            yield piece


def meeting(world: World, count: int = AT_ONCE) -> Context:
    return replace(world.context, engines=MeetingEngine(count))  # type: ignore[arg-type]


def record(tenant: str, key: str, tokens: int) -> CallRecord:
    return CallRecord(key, tenant, "", "baseModels/tiny", FREE, ((Meter.COMPLETION_TOKENS, tokens),))


async def test_calls_at_once_are_recorded_with_few_statements_and_each_of_them(
    world: World, base: BaseModel, folder: Path, engine: AsyncEngine
) -> None:
    await deployed(world, folder)
    await limit(world, tokens_per_minute=100_000)
    context, asked = meeting(world), list[str]()
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    callers = [world.member("acme" if n % 2 else "globex") for n in range(AT_ONCE)]
    await asyncio.gather(
        *(
            collected(inference.generate(context, caller, asking(ALIAS if caller.tenant == "acme" else base.name), "r"))
            for caller in callers
        )
    )
    assert await used(context, "acme") == {Meter.PROMPT_TOKENS: 84, Meter.COMPLETION_TOKENS: 36}
    assert await used(context, "globex") == {Meter.PROMPT_TOKENS: 84, Meter.COMPLETION_TOKENS: 36}
    inserts = [said for said in asked if said.startswith("INSERT INTO ledger_entries")]
    assert 1 <= len(inserts) <= 3
    assert len(asked) < 2 * AT_ONCE, "one by one it would be some ten each"
    async with context.units(write=False) as unit:
        for tenant in ("acme", "globex"):
            entries = (await unit.ledger.entries(LedgerRange(tenant), 500, None)).items
            assert len(entries) == AT_ONCE
            assert len({entry.key for entry in entries}) == AT_ONCE
            kept, follows = await unit.ledger.derived(tenant), derive(entries)
            assert (kept.hours, kept.days) == (follows.hours, follows.days)
        buckets = await unit.rates.get("acme")
    assert {bucket.level for bucket in buckets.values()} == {100_000.0 - 10 * 12}, "by what the calls took, no estimate"


async def test_one_whose_tenant_is_gone_costs_no_other_its_record(world: World, base: BaseModel) -> None:
    context = world.context
    await tenants.delete_tenant(context, "tenants/globex", "", force=True)
    records = [record(tenant, f"call-{n}", n + 1) for n, tenant in enumerate(("acme", "globex", "acme"))]
    found = await asyncio.gather(*map(context.call_records.ask, records), return_exceptions=True)
    assert [error is None for error in found] == [True, False, True]
    assert await used(context, "acme") == {Meter.COMPLETION_TOKENS: 4}


async def test_one_whose_rows_are_held_by_others_costs_no_other_its_record(
    world: World, base: BaseModel, engine: AsyncEngine
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("On SQLite one writer holds the whole database.")
    context = world.context
    held = CallRecord("call-0", "globex", "", "baseModels/tiny", FREE, ((Meter.COMPLETION_TOKENS, 1),))
    await context.call_records.ask(held)  # so that there are sums to be held
    event.listen(engine.sync_engine, "begin", lambda made: made.exec_driver_sql("SET LOCAL lock_timeout = '300ms'"))
    async with engine.connect() as other:
        for table in ("usage_hours", "usage_days"):
            await other.execute(text(f"SELECT * FROM {table} WHERE tenant = 'globex' FOR UPDATE"))
        records = [record(tenant, f"call-{n}", n) for n, tenant in enumerate(("acme", "globex", "acme", "globex"), 1)]
        found = await asyncio.gather(*map(context.call_records.ask, records), return_exceptions=True)
    assert [type(error) for error in found] == [type(None), RowsHeld, type(None), RowsHeld]
    assert await used(context, "acme") == {Meter.COMPLETION_TOKENS: 4}
    assert await used(context, "globex") == {Meter.COMPLETION_TOKENS: 1}


async def test_a_record_is_written_once_however_often_it_is_asked_for(world: World, base: BaseModel) -> None:
    for _ in range(2):
        await asyncio.gather(*(world.context.call_records.ask(record("acme", "call-1", 5)) for _ in range(3)))
    assert await used(world.context, "acme") == {Meter.COMPLETION_TOKENS: 5}


async def test_what_a_stopping_server_has_to_record_is_waited_for(world: World, base: BaseModel) -> None:
    context = meeting(world, 2)
    calls = [
        asyncio.create_task(collected(inference.generate(context, world.member("acme"), asking(base.name), "r")))
        for _ in range(2)
    ]
    while not context.call_records._running:
        await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await context.drain()
    assert await used(context, "acme") == {Meter.PROMPT_TOKENS: 14, Meter.COMPLETION_TOKENS: 6}


async def test_nothing_is_remembered_of_keys_and_models(world: World, base: BaseModel, folder: Path) -> None:
    adapter = await deployed(world, folder)
    context = replace(world.context, engines=TalkingEngine())  # type: ignore[arg-type]
    other = replace(context)
    key, secret = await api_keys.create_api_key(
        context, ADMIN, api_keys.NewApiKey(str(TenantName("acme")), "", Role.MEMBER, None)
    )

    async def call(through: Context) -> Caller:
        caller = await authentication.authenticate(through, f"Bearer {secret}")
        await collected(inference.generate(through, caller, asking(ALIAS), "r"))
        return caller

    assert (await call(context)).tenant == "acme"
    assert (await call(other)).tenant == "acme"
    await adapters.undeploy_adapter(context, adapter.name)
    for through in (context, other):
        with pytest.raises(TrellisError) as caught:
            await call(through)
        assert caught.value.reason == Reason.ADAPTER_NOT_DEPLOYED
    await api_keys.revoke_api_key(context, key.name)
    for through in (context, other):
        with pytest.raises(TrellisError) as caught:
            await call(through)
        assert caught.value.reason == Reason.API_KEY_REVOKED
