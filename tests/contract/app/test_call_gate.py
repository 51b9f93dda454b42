"""Rates and budgets of calls of models: over several servers, with a clock that only waiting moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.app.test_inference import TalkingEngine
from tests.contract.app.test_quota_limits import limit, outcomes, refused, said
from tests.server_fakes import FakeClock, World, collected

from trellis.errors import Reason, ResourceExhausted, TrellisError
from trellis.server.app import inference, tenants
from trellis.server.app.asked_quota import AskedQuota
from trellis.server.app.call_gate import CallGate
from trellis.server.app.context import Context
from trellis.server.app.idempotency import RequestKey
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.rate_limiter import PATIENCE, Charge, RateLimiter
from trellis.server.app.token_estimate import estimate_tokens
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.tenant import Tenant
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse
from trellis.v1.inference_pb2 import ChatInput, ChatMessage, GenerateRequest, GenerateResponse, Usage


class Sleeper:
    """Moves the clock instead of waiting, and remembers for how long."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)


@pytest.fixture
def sleeper(world: World) -> Sleeper:
    return Sleeper(world.clock)


@pytest.fixture
def engine_host() -> TalkingEngine:
    return TalkingEngine()


@pytest.fixture
def context(world: World, sleeper: Sleeper, engine_host: TalkingEngine) -> Context:
    return replace(world.context, engines=engine_host, gate=CallGate(sleeper))  # type: ignore[arg-type]


async def limited(world: World, **limits: Any) -> Tenant:
    await limit(world, **limits)
    async with world.context.units(write=False) as unit:
        found = await unit.tenants.get("acme")
    assert found is not None
    return found


async def levels(world: World) -> dict[str, float]:
    """What may be taken at once, by kind."""
    async with world.context.units(write=False) as unit:
        return {kind.value: bucket.level for kind, bucket in (await unit.rates.get("acme")).items()}


async def ask(context: Context, world: World, seconds: float | None = None, **fields: Any) -> None:
    request = GenerateRequest(model="baseModels/tiny", **{"prompt": "Hello you", "max_tokens": 10, **fields})
    await collected(inference.generate(context, world.member("acme"), request, "r", seconds))


async def test_calls_beyond_the_rate_wait_in_turn_and_are_refused_when_it_would_be_long(
    world: World, base: BaseModel
) -> None:
    acme = await limited(world, requests_per_minute=30)
    waits: list[float] = []

    async def remember(seconds: float) -> None:
        waits.append(seconds)

    limiter = RateLimiter(remember)
    calls = [limiter.admit(world.context.units, world.clock, acme, 0, None) for _ in range(40)]
    done, errors = await outcomes(calls)
    # 30 at once, and one each two seconds for as long as calls wait.
    assert (done, sorted(waits)) == (32, [2.0, 4.0])
    assert {(error.reason, error.STATUS) for error in errors} == {(Reason.RATE_LIMITED, "RESOURCE_EXHAUSTED")}
    assert {error.retry_after for error in errors} == {6.0}
    [violation] = errors[0].quota_violations
    assert (violation.limit, violation.allowed) == ("requests_per_minute", 30)
    world.clock.advance(6.0)
    assert await limiter.admit(world.context.units, world.clock, acme, 0, None)


async def test_a_call_waits_no_longer_than_its_caller(world: World, base: BaseModel, sleeper: Sleeper) -> None:
    acme = await limited(world, requests_per_minute=60)
    limiter = RateLimiter(sleeper)
    for _ in range(60):
        await limiter.admit(world.context.units, world.clock, acme, 0, None)
    error = await refused(limiter.admit(world.context.units, world.clock, acme, 0, 0.9))
    assert (error.reason, error.retry_after) == (Reason.RATE_LIMITED, 1.0)
    charge = await limiter.admit(world.context.units, world.clock, acme, 0, 1.1)
    assert charge is not None
    assert (charge.waited, sleeper.slept) == (1.0, [1.0])


async def test_the_rate_is_that_of_all_servers_together(
    world: World, base: BaseModel, other_units: UnitOfWorkFactory
) -> None:
    acme = await limited(world, requests_per_minute=120, tokens_per_minute=1000)
    servers = [(RateLimiter(patience=0.0), units) for units in (world.context.units, other_units)]

    async def second(number: int) -> int:
        calls = [
            limiter.admit(units, world.clock, acme, 10, None)
            for limiter, units in servers
            for _ in range(30 if number else 80)
        ]
        done, errors = await outcomes(calls)
        assert {error.reason for error in errors} == {Reason.RATE_LIMITED}
        return done

    # A minute's worth of tokens, then what the rate brings in: 1000 / 60 tokens a second are 1.67 calls.
    done = []
    for number in range(7):
        done.append(await second(number))
        world.clock.advance(1.0)
    assert done == [100, 1, 2, 2, 1, 2, 2]


STEPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["one", "other"]), min_size=1, max_size=6),  # who asks at once
        st.floats(0.5, 40.0),  # for how much each
        st.floats(0.0, 20.0),  # how much later the next ones ask
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, rate=st.integers(60, 240))
async def test_two_servers_never_give_more_than_the_rate_and_a_minutes_worth(
    world: World,
    other_units: UnitOfWorkFactory,
    steps: list[tuple[list[str], float, float]],
    rate: int,
) -> None:
    name = world.context.ids.new_id("tenant")
    quota = AskedQuota(Quota(tokens_per_minute=rate))
    tenant = await tenants.create_tenant(world.context, name, "", RequestKey(), quota=quota)
    given_: list[tuple[float, float]] = []

    async def nothing(_: float) -> None:
        """The wait is told by the charge; the clock is moved by the steps alone."""

    servers = {"one": (RateLimiter(nothing), world.context.units), "other": (RateLimiter(nothing), other_units)}
    for who, amount, later in steps:
        now = world.clock.now().timestamp()
        calls = [servers[each][0].admit(servers[each][1], world.clock, tenant, amount, None) for each in who]
        for charge in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(charge, (Charge, ResourceExhausted)), charge
            if isinstance(charge, Charge):
                given_.append((now + charge.waited, amount))
        world.clock.advance(later)
    given_.sort()
    for first, (begin, _) in enumerate(given_):
        total = 0.0
        for at, amount in given_[first:]:
            total += amount
            assert total <= rate + rate * (at - begin) / 60 + 1e-3


async def test_a_server_whose_clock_is_ahead_or_behind_gives_nothing_twice(
    world: World, base: BaseModel, other_units: UnitOfWorkFactory
) -> None:
    acme = await limited(world, requests_per_minute=60)
    ahead = FakeClock()
    ahead.time = world.clock.now() + timedelta(seconds=10)
    servers = [
        (RateLimiter(patience=0.0), world.context.units, world.clock),
        (RateLimiter(patience=0.0), other_units, ahead),
    ]
    granted = 0
    for _ in range(50):
        for limiter, units, clock in servers:
            done, _ = await outcomes([limiter.admit(units, clock, acme, 0, None) for _ in range(5)])
            granted += done
    # Ten seconds' worth for the ten seconds that the one clock is ahead at the most, once.
    assert 60 < granted <= 60 + 10


async def test_what_can_never_be_had_in_a_minute_is_said_at_once(world: World, base: BaseModel) -> None:
    acme = await limited(world, requests_per_minute=60, tokens_per_minute=100)
    limiter = RateLimiter()
    error = await refused(limiter.admit(world.context.units, world.clock, acme, 101, None))
    assert said(error) == (Reason.NEVER_FITS, "tokens_per_minute", 100, 0, 101)
    assert await limiter.admit(world.context.units, world.clock, acme, 100, None)
    acme = await limited(world, requests_per_minute=0)
    error = await refused(limiter.admit(world.context.units, world.clock, acme, 1, None))
    assert said(error) == (Reason.NEVER_FITS, "requests_per_minute", 0, 0, 1)


async def test_whoever_goes_away_while_waiting_has_taken_nothing(world: World, base: BaseModel) -> None:
    acme = await limited(world, requests_per_minute=60, tokens_per_minute=60)
    asleep = asyncio.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    limiter = RateLimiter(sleep)
    await limiter.admit(world.context.units, world.clock, acme, 60, None)
    call = asyncio.create_task(limiter.admit(world.context.units, world.clock, acme, 4, None))
    await asleep.wait()
    assert await levels(world) == {"requests": 58.0, "tokens": -4.0}
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.gather(*limiter._tasks)
    assert await levels(world) == {"requests": 59.0, "tokens": 0.0}


async def test_what_the_database_says_reaches_every_call(world: World, base: BaseModel) -> None:
    acme = await limited(world, requests_per_minute=60)

    def broken(*, write: bool = True) -> Any:
        raise TrellisError(Reason.DATABASE_BUSY, "The database is busy.")

    limiter = RateLimiter()
    done, errors = await outcomes([limiter.admit(broken, world.clock, acme, 0, None) for _ in range(3)])
    assert (done, [error.reason for error in errors]) == (0, [Reason.DATABASE_BUSY] * 3)
    assert await limiter.admit(world.context.units, world.clock, acme, 0, None)


async def test_many_calls_at_once_cost_few_transactions(world: World, base: BaseModel, engine: AsyncEngine) -> None:
    acme = await limited(world, requests_per_minute=1000)
    commits: list[object] = []
    event.listen(engine.sync_engine, "commit", commits.append)
    limiter = RateLimiter()
    await outcomes([limiter.admit(world.context.units, world.clock, acme, 0, None) for _ in range(200)])
    assert 1 <= len(commits) <= 3
    assert await levels(world) == {"requests": 800.0}


async def test_tenants_without_rates_and_budgets_cost_no_query(
    world: World, base: BaseModel, engine: AsyncEngine, context: Context
) -> None:
    statements: list[str] = []

    def remember(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", remember)
    await ask(context, world)
    plain = len(statements)
    assert not any("rate_buckets" in statement for statement in statements)
    await limit(world, requests_per_minute=100)
    statements.clear()
    await ask(context, world)
    assert len(statements) > plain
    assert any("rate_buckets" in statement for statement in statements)


async def test_a_call_is_charged_by_an_estimate_and_then_by_what_it_took(
    world: World, base: BaseModel, context: Context, engine_host: TalkingEngine
) -> None:
    await limit(world, tokens_per_minute=1000, requests_per_minute=10)
    seen: list[dict[str, float]] = []

    class Looking(TalkingEngine):
        async def stream_tokens(
            self, base_model_id: str, request: StreamTokensRequest
        ) -> AsyncIterator[StreamTokensResponse]:
            seen.append(await levels(world))
            async for piece in super().stream_tokens(base_model_id, request):
                yield piece

    looking = Looking()
    spying = replace(context, engines=looking)  # type: ignore[arg-type]
    # "Hello you" is 9 characters, 3 tokens by the rule; the engine counts 7, and answers with 3.
    await ask(spying, world)
    assert seen == [{"requests": 9.0, "tokens": 1000.0 - 3 - 10}]
    assert await levels(world) == {"requests": 9.0, "tokens": 990.0}
    looking.answer = (GenerateResponse(token_ids=[1], usage=Usage(prompt_tokens=500, completion_tokens=600)),)
    await ask(spying, world)
    assert await levels(world) == {"requests": 8.0, "tokens": -110.0}


async def test_an_answer_that_is_cut_off_is_charged_with_what_is_known(
    world: World, base: BaseModel, context: Context
) -> None:
    await limit(world, tokens_per_minute=1000)
    request = GenerateRequest(model=base.name, prompt="x" * 400, max_tokens=50)
    async with aclosing(inference.generate(context, world.member("acme"), request, "r")) as answer:  # type: ignore[type-var]
        await anext(answer)
    assert await levels(world) == {"tokens": 1000.0 - 100 - 2}


async def test_an_engine_that_fails_costs_no_tokens(world: World, base: BaseModel, context: Context) -> None:
    await limit(world, tokens_per_minute=1000, requests_per_minute=10)
    world.engines.reachable = False
    failing = replace(context, engines=world.engines)
    assert (await refused(ask(failing, world))).reason == Reason.ENGINE_UNAVAILABLE
    assert await levels(world) == {"requests": 9.0, "tokens": 1000.0}


async def test_the_engine_hears_of_the_time_that_is_left_after_waiting(
    world: World, base: BaseModel, context: Context, engine_host: TalkingEngine, sleeper: Sleeper
) -> None:
    await limit(world, requests_per_minute=20)
    for _ in range(21):
        await ask(context, world, seconds=60.0)
    assert [request.deadline_seconds for _, request in engine_host.asked] == [60.0] * 20 + [57.0]
    assert sleeper.slept == [3.0]
    assert PATIENCE >= 3.0


@pytest.mark.parametrize(
    ("request_", "prompt", "answers"),
    [
        (GenerateRequest(prompt="x" * 9), 3, 256),
        (GenerateRequest(prompt="x" * 8, max_tokens=10, n=3), 2, 30),
        (GenerateRequest(prompt="x" * 8000, max_tokens=10**6), 512, 512),
        (GenerateRequest(chat=ChatInput(messages=[ChatMessage(role="user", content="x" * 36)]), max_tokens=1), 10, 1),
    ],
)
def test_estimates_go_by_characters_and_end_at_the_context(
    request_: GenerateRequest, prompt: int, answers: int
) -> None:
    estimate = estimate_tokens(request_, 512)
    assert (estimate.prompt, estimate.answers, estimate.total) == (prompt, answers, prompt + answers)


def token_budget(hard: int | None, period: Period = Period.DAY, soft: int | None = None) -> Quota:
    return Quota(budgets=(Budget(BudgetMeter.TOKENS, period, soft, hard),))


async def settle(world: World, key: str, tokens: int, meter: Meter = Meter.PROMPT_TOKENS) -> None:
    entry = LedgerEntry("acme", key, EntryKind.SETTLE, meter, tokens, world.clock.now())
    async with world.context.units() as unit:
        await unit.ledger.append([entry])
        await unit.commit()


async def test_a_budget_is_used_up_to_its_limit_and_is_there_again_in_the_next_period(
    world: World, base: BaseModel, context: Context
) -> None:
    # A call may take 3 tokens and 10; it takes 7 and 3.
    await limit(world, budgets=token_budget(hard=113).budgets)
    await settle(world, "old", 90)
    await ask(context, world)
    await limit(world, budgets=token_budget(hard=112).budgets)
    error = await refused(ask(context, world))
    assert said(error) == (Reason.BUDGET_EXHAUSTED, "budgets.tokens.day", 112, 100, 13)
    assert (error.metadata["meter"], error.metadata["period_end_time"]) == ("TOKENS", "2026-01-03T00:00:00Z")
    midnight = 24 * 3600 - (3 * 3600 + 4 * 60 + 5)
    assert error.retry_after == midnight
    world.clock.advance(midnight)
    await ask(context, world)


async def test_what_a_whole_period_does_not_allow_never_fits(world: World, base: BaseModel, context: Context) -> None:
    await limit(world, budgets=token_budget(hard=12).budgets)
    error = await refused(ask(context, world))
    assert said(error) == (Reason.NEVER_FITS, "budgets.tokens.day", 12, 0, 13)
    await limit(world, budgets=token_budget(hard=13).budgets)
    await ask(context, world)


async def test_calls_at_once_do_not_pass_the_budget_together(world: World, base: BaseModel, context: Context) -> None:
    await limit(world, budgets=token_budget(hard=50, period=Period.MONTH).budgets)
    done, errors = await outcomes([ask(context, world) for _ in range(12)])
    assert 3 <= done <= 5
    assert {error.reason for error in errors} == {Reason.BUDGET_EXHAUSTED}
    async with world.context.units(write=False) as unit:
        sums = (await unit.ledger.settled_since(["acme"], Period.MONTH.start(world.clock.now())))["acme"]
    assert sum(sums.values()) == 10 * done <= 50


async def test_a_soft_limit_alone_refuses_nothing(world: World, base: BaseModel, context: Context) -> None:
    await limit(world, budgets=token_budget(hard=None, soft=1).budgets)
    await ask(context, world)
    await ask(context, world)


async def test_others_use_is_seen_within_a_second(world: World, base: BaseModel, context: Context) -> None:
    await limit(world, budgets=token_budget(hard=1000).budgets)
    await ask(context, world)
    await settle(world, "elsewhere", 980, Meter.TRAINED_TOKENS)
    world.clock.advance(1.0)
    assert said(await refused(ask(context, world)))[0] == Reason.BUDGET_EXHAUSTED
