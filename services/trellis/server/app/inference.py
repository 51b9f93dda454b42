"""Calls of models: a name becomes a digest, the engine answers, and what it took is recorded once."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from trellis.errors import NotFound, Reason, error_for
from trellis.names import AdapterName, AliasName, BaseModelName, tenant_of
from trellis.server.app.call_gate import Passed
from trellis.server.app.call_records import CallRecord
from trellis.server.app.context import Context
from trellis.server.app.generate_request import check_generate
from trellis.server.app.job_spec import NO_LIMIT
from trellis.server.app.model_lookup import WantedModel
from trellis.server.app.shares import shared_adapter
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller
from trellis.server.domain.ledger import Meter
from trellis.server.domain.tenant import DEFAULT_SERVING_WEIGHT, Tenant
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


async def generate(
    context: Context, caller: Caller, request: GenerateRequest, request_id: str, seconds: float | None = None
) -> AsyncIterator[GenerateResponse]:
    """The model's answers in pieces; closing the iterator ends the work. The usage is recorded in any case.

    `seconds` is how long the caller will wait from now on.
    """
    check_generate(request)
    with context.open_calls.one():
        model, tenant, base = await _resolve(context, caller, request.model)
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
                    tally.count(response, piece.prompt_tokens)
                    yield response
        finally:
            await context.open_calls.finish(_record(context, model, tally, passed))


class _Tally:
    """What a call's answers took so far; the first piece tells of the prompt, and the very last one has the final word."""

    def __init__(self) -> None:
        self.begun = False
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def count(self, response: GenerateResponse, prompt_tokens: int) -> None:
        self.begun = True
        self.prompt_tokens = prompt_tokens or self.prompt_tokens
        self.completion_tokens += len(response.token_ids)
        if response.HasField("usage"):
            self.prompt_tokens = response.usage.prompt_tokens
            self.completion_tokens = response.usage.completion_tokens

    def tokens(self, passed: Passed) -> int:
        """All that the call took; of a prompt that was read and never counted, as it was cut off, the estimate."""
        prompt = self.prompt_tokens or (passed.estimate.prompt if self.begun else 0)
        return prompt + self.completion_tokens


async def _resolve(context: Context, caller: Caller, name: str) -> tuple[_Model, Tenant | None, BaseModel | None]:
    """The model, whom the call is for, and the base, if it was named or the tenant's calls are counted."""
    owner, tenant = tenant_of(name), caller.tenant or ""
    if owner is None:
        wanted = WantedModel(tenant, base_model=BaseModelName.parse(name, "model").base_model)
    elif caller.may_touch(owner):
        kind = AliasName if "/aliases/" in name else AdapterName
        wanted = WantedModel(owner, adapter=kind.parse(name, "model"))
    else:
        return await _resolve_shared(context, caller, name)
    found = await context.models.ask(wanted)
    if wanted.adapter is None:
        if found.base is None:
            raise NotFound.for_resource(name)
        return _Model(found.base.base_model_id, None, tenant or PLATFORM_TENANT), found.tenant, found.base
    if found.adapter is None:
        raise NotFound.for_resource(wanted.adapter)
    return _of_adapter(found.adapter, wanted.tenant), found.tenant, found.base


async def _resolve_shared(
    context: Context, caller: Caller, name: str
) -> tuple[_Model, Tenant | None, BaseModel | None]:
    async with context.units(write=False) as unit:
        adapter = await shared_adapter(unit, caller, name)
    model = _of_adapter(adapter, caller.tenant or PLATFORM_TENANT)
    found = await context.models.ask(WantedModel(caller.tenant or "", base_model=model.base_model_id))
    return model, found.tenant, found.base


def _of_adapter(adapter: Adapter, tenant: str) -> _Model:
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
    is_charged = tally.begun and model.tenant != PLATFORM_TENANT
    used = tally.tokens(passed) if passed else 0
    try:
        if passed or (is_charged and (tally.prompt_tokens or tally.completion_tokens)):
            await context.call_records.ask(
                CallRecord(
                    key=context.ids.new_id("call"),
                    tenant=model.tenant if is_charged else "",
                    adapter=model.adapter.name if model.adapter else "",
                    base_model=str(BaseModelName(model.base_model_id)),
                    prices=context.settings.prices,
                    tokens=(
                        (Meter.PROMPT_TOKENS, tally.prompt_tokens),
                        (Meter.COMPLETION_TOKENS, tally.completion_tokens),
                    ),
                    passed=passed,
                    used=used,
                )
            )
    finally:
        if passed:
            context.gate.done(passed, used)
