"""Calls of models: a name becomes a digest, the engine answers, and what it took is recorded once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from trellis.errors import Reason, error_for
from trellis.names import AdapterName, AliasName, BaseModelName, tenant_of
from trellis.server.app.adapters import present_adapter, present_alias
from trellis.server.app.base_models import present_base_model
from trellis.server.app.call_gate import Passed
from trellis.server.app.context import Context
from trellis.server.app.generate_request import check_generate
from trellis.server.app.job_spec import NO_LIMIT
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.shares import shared_adapter
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.domain.caller import Caller
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.tenant import DEFAULT_SERVING_WEIGHT
from trellis.v1.engine_pb2 import StreamTokensRequest
from trellis.v1.inference_pb2 import GenerateRequest, GenerateResponse

PLATFORM_TENANT = "platform"
_RETRY_SECONDS = 2.0
_LEAST_SECONDS = 0.001
"""A deadline that has just passed is still one; 0 would be none."""


@dataclass(frozen=True, slots=True)
class _Model:
    base_model_id: str
    adapter: Adapter | None
    tenant: str
    """Whom the call is for."""

    @property
    def name(self) -> str:
        return self.adapter.name if self.adapter else str(BaseModelName(self.base_model_id))


async def generate(
    context: Context, caller: Caller, request: GenerateRequest, request_id: str, seconds: float | None = None
) -> AsyncIterator[GenerateResponse]:
    """The model's answers in pieces; closing the iterator ends the work. The usage is recorded in any case.

    `seconds` is how long the caller will wait from now on.
    """
    check_generate(request)
    async with context.units(write=False) as unit:
        model = await _resolve(unit, caller, request.model)
        tenant = await unit.tenants.get(model.tenant)
        base = await unit.base_models.get(model.base_model_id) if context.gate.counts(tenant) else None
    _require_deployed(model)
    passed = None
    if tenant is not None and context.gate.counts(tenant):
        length = base.context_length if base else NO_LIMIT
        passed = await context.gate.admit(context.units, context.clock, tenant, request, length, seconds)
        seconds = None if seconds is None else seconds - passed.waited
    wanted = _engine_request(model, request, request_id)
    wanted.tenant_weight = tenant.serving_weight if tenant else DEFAULT_SERVING_WEIGHT
    wanted.deadline_seconds = 0.0 if seconds is None else max(seconds, _LEAST_SECONDS)
    tally = _Tally()
    try:
        pieces = context.engines.stream_tokens(model.base_model_id, wanted)
        async with aclosing(pieces) as answer:  # type: ignore[type-var]
            async for piece in answer:
                response = piece.generate
                if model.adapter is not None and not tally.begun:
                    response.adapter_digest = model.adapter.digest
                tally.count(response)
                yield response
    finally:
        await asyncio.shield(_record(context, model, tally, passed))


class _Tally:
    """What a call's answers took so far; the engine's very last piece has the final word."""

    def __init__(self) -> None:
        self.begun = False
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def count(self, response: GenerateResponse) -> None:
        self.begun = True
        self.completion_tokens += len(response.token_ids)
        if response.HasField("usage"):
            self.prompt_tokens = response.usage.prompt_tokens
            self.completion_tokens = response.usage.completion_tokens

    def tokens(self, passed: Passed) -> int:
        """All that the call took; of a prompt that was read and never counted, as it was cut off, the estimate."""
        prompt = self.prompt_tokens or (passed.estimate.prompt if self.begun else 0)
        return prompt + self.completion_tokens


async def _resolve(unit: UnitOfWork, caller: Caller, name: str) -> _Model:
    tenant = tenant_of(name)
    if tenant is None:
        BaseModelName.parse(name, "model")
        base = await present_base_model(unit, name)
        return _Model(base.base_model_id, None, caller.tenant or PLATFORM_TENANT)
    if not caller.may_touch(tenant):
        adapter = await shared_adapter(unit, caller, name)
        return _Model(BaseModelName.parse(adapter.base_model).base_model, adapter, caller.tenant or PLATFORM_TENANT)
    if "/aliases/" in name:
        alias = await present_alias(unit, AliasName.parse(name, "model"))
        adapter = await present_adapter(unit, AdapterName.for_digest(tenant, alias.adapter_digest))
    else:
        adapter = await present_adapter(unit, AdapterName.parse(name, "model"))
    return _Model(BaseModelName.parse(adapter.base_model).base_model, adapter, tenant)


def _require_deployed(model: _Model) -> None:
    adapter = model.adapter
    if adapter is None or adapter.deployment is Deployment.DEPLOYED:
        return
    if adapter.deployment is Deployment.UNDEPLOYED:
        message = f"{adapter.name} is not deployed. Call DeployAdapter first."
        raise error_for(Reason.ADAPTER_NOT_DEPLOYED, message, metadata={"adapter": adapter.name})
    why = adapter.deployment_message or "Its engine is being started."
    message = f"{adapter.name} can't be called yet. {why}"
    raise error_for(Reason.ENGINE_UNAVAILABLE, message, retry_after=_RETRY_SECONDS)


def _engine_request(model: _Model, request: GenerateRequest, request_id: str) -> StreamTokensRequest:
    adapter = model.adapter
    return StreamTokensRequest(
        tenant_id=model.tenant,
        adapter_digest=adapter.digest if adapter else "",
        adapter_key=adapter.key if adapter else "",
        generate=request,
        request_id=request_id,
    )


async def _record(context: Context, model: _Model, tally: _Tally, passed: Passed | None) -> None:
    entries = _entries(context, model, tally) if tally.begun and model.tenant != PLATFORM_TENANT else []
    used = tally.tokens(passed) if passed else 0
    try:
        if entries or passed:
            async with context.units() as unit:
                await unit.ledger.append(entries)
                if passed:
                    await context.gate.correct(unit, context.clock, passed, used)
                await unit.commit()
    finally:
        if passed:
            context.gate.done(passed, used)


def _entries(context: Context, model: _Model, tally: _Tally) -> list[LedgerEntry]:
    key, now, prices = context.ids.new_id("call"), context.now(), context.settings.prices
    base = str(BaseModelName(model.base_model_id))
    used = {
        f"{key}-inference_prompt_tokens": (Meter.PROMPT_TOKENS, tally.prompt_tokens),
        f"{key}-inference_completion_tokens": (Meter.COMPLETION_TOKENS, tally.completion_tokens),
    }
    return [
        LedgerEntry(
            tenant=model.tenant,
            key=each,
            kind=EntryKind.SETTLE,
            meter=meter,
            quantity=quantity,
            time=now,
            adapter=model.adapter.name if model.adapter else "",
            base_model=base,
            price_nanos=prices.of(meter, base),
        )
        for each, (meter, quantity) in used.items()
        if quantity
    ]
