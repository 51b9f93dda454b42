"""Calls of models: a name becomes a digest, the engine answers, and what it took is recorded once."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from trellis.errors import Reason, error_for
from trellis.names import AdapterName, AliasName, BaseModelName, tenant_of
from trellis.server.app.adapters import present_adapter, present_alias
from trellis.server.app.base_models import present_base_model
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.ports import UnitOfWork, UsageRecord
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.domain.caller import Caller
from trellis.v1.engine_pb2 import StreamTokensRequest
from trellis.v1.inference_pb2 import ChatInput, GenerateRequest, GenerateResponse, SamplingParams

PLATFORM_TENANT = "platform"
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_MAX_STOPS, _MAX_STOP_LENGTH, _MAX_LOGPROBS, _MAX_TEMPERATURE = 8, 100, 20, 2.0
_RETRY_SECONDS = 2.0


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
    context: Context, caller: Caller, request: GenerateRequest, request_id: str
) -> AsyncIterator[GenerateResponse]:
    """The model's answer in pieces; closing the iterator ends the work. The usage is recorded in any case."""
    _check(request)
    async with context.units(write=False) as unit:
        model = await _resolve(unit, caller, request.model)
    _require_deployed(model)
    tally = _Tally()
    try:
        pieces = context.engines.stream_tokens(model.base_model_id, _engine_request(model, request, request_id))
        async with aclosing(pieces) as answer:  # type: ignore[type-var]
            async for piece in answer:
                response = piece.generate
                if model.adapter is not None and not tally.begun:
                    response.adapter_digest = model.adapter.digest
                tally.count(response)
                yield response
    finally:
        await asyncio.shield(_record(context, model, tally))


class _Tally:
    """What an answer took so far; the engine's last piece has the final word."""

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


async def _resolve(unit: UnitOfWork, caller: Caller, name: str) -> _Model:
    tenant = tenant_of(name)
    if tenant is None:
        BaseModelName.parse(name, "model")
        base = await present_base_model(unit, name)
        return _Model(base.base_model_id, None, caller.tenant or PLATFORM_TENANT)
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


async def _record(context: Context, model: _Model, tally: _Tally) -> None:
    if not tally.begun or model.tenant == PLATFORM_TENANT:
        return
    key = context.ids.new_id("call")
    measured = {
        "inference_prompt_tokens": tally.prompt_tokens,
        "inference_completion_tokens": tally.completion_tokens,
    }
    records = [
        UsageRecord(model.tenant, f"{key}-{kind}", kind, float(quantity), model.name, context.now())
        for kind, quantity in measured.items()
        if quantity
    ]
    async with context.units() as unit:
        await unit.usage.add(records)
        await unit.commit()


def _check(request: GenerateRequest) -> None:
    violations = Violations()
    _check_input(request, violations)
    _check_sampling(request.sampling, violations)
    if request.max_tokens < 0:
        violations.add("max_tokens", "It must not be negative.")
    if len(request.stop) > _MAX_STOPS:
        violations.add("stop", f"At most {_MAX_STOPS} may be given.")
    if any(not 1 <= len(stop) <= _MAX_STOP_LENGTH for stop in request.stop):
        violations.add("stop", f"Each must have 1 to {_MAX_STOP_LENGTH} characters.")
    if request.HasField("logprobs") and not 0 <= request.logprobs <= _MAX_LOGPROBS:
        violations.add("logprobs", f"{request.logprobs} is not between 0 and {_MAX_LOGPROBS}.")
    violations.raise_any()


def _check_input(request: GenerateRequest, violations: Violations) -> None:
    match request.WhichOneof("input"):
        case "chat":
            _check_chat(request.chat, violations)
        case "prompt":
            if not request.prompt:
                violations.add("prompt", "It is empty.")
        case _:
            violations.add("chat", "Either chat or prompt must be set.")


def _check_chat(chat: ChatInput, violations: Violations) -> None:
    if not chat.messages:
        violations.add("chat.messages", "There must be at least one message.")
    for number, message in enumerate(chat.messages):
        if message.role not in _ROLES:
            known = ", ".join(sorted(_ROLES))
            violations.add(f"chat.messages[{number}].role", f"{message.role[:50]!r} is none of {known}.")


def _check_sampling(sampling: SamplingParams, violations: Violations) -> None:
    if sampling.HasField("temperature") and not _within(sampling.temperature, 0.0, _MAX_TEMPERATURE):
        violations.add("sampling.temperature", f"{sampling.temperature} is not between 0 and {_MAX_TEMPERATURE:g}.")
    if sampling.HasField("top_p") and not (_within(sampling.top_p, 0.0, 1.0) and sampling.top_p > 0):
        violations.add("sampling.top_p", f"{sampling.top_p} is not between 0 (exclusive) and 1.")
    if sampling.HasField("top_k") and sampling.top_k < 0:
        violations.add("sampling.top_k", "It must not be negative.")


def _within(number: float, low: float, high: float) -> bool:
    return math.isfinite(number) and low <= number <= high
