"""Between the wire's messages and the engine's: the only file that knows both."""

from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from trellis.engine import AdapterRef, FinishReason, Output, Request, ResponseFormat, Sampling, TokenChance
from trellis.errors import FieldViolation, InvalidArgument
from trellis.formats import Message
from trellis.formats.errors import Problems
from trellis.formats.messages import read_message
from trellis.formats.tools import read_tools
from trellis.tokens import ChatTokenizer, TemplateError
from trellis.v1 import engine_pb2, inference_pb2

_FINISH = {
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: inference_pb2.FINISH_REASON_CANCELLED,
}


def prompt_ids(generate: inference_pb2.GenerateRequest, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    """The tokens to go on from, rendered as in training. Raises InvalidArgument (INVALID_FIELD)."""
    match generate.WhichOneof("input"):
        case "chat":
            return _chat_ids(generate.chat, tokenizer)
        case "prompt":
            return tuple(tokenizer.encode_text(generate.prompt))
        case _:
            raise InvalidArgument.for_field("input", "Give `chat` or `prompt`.")


def engine_request(
    request_id: str, call: engine_pb2.StreamTokensRequest, prompt: tuple[int, ...], now: float
) -> Request:
    """The request as the engine takes it, whose clock says `now`; what is not set gets the API's default."""
    generate = call.generate
    return Request(
        request_id=request_id,
        prompt_ids=prompt,
        adapter=AdapterRef(call.adapter_digest, call.adapter_key) if call.adapter_digest else None,
        tenant=call.tenant_id,
        weight=call.tenant_weight or 1.0,
        sampling=_sampling(generate.sampling),
        max_tokens=generate.max_tokens,
        stop=tuple(generate.stop),
        logprobs=generate.logprobs if generate.HasField("logprobs") else None,
        n=generate.n or 1,
        response_format=_response_format(generate.response_format),
        deadline=now + call.deadline_seconds if call.deadline_seconds else None,
    )


def _sampling(params: inference_pb2.SamplingParams) -> Sampling:
    return Sampling(**{field.name: value for field, value in params.ListFields()})  # both have the same names


def _response_format(wanted: inference_pb2.ResponseFormat) -> ResponseFormat | None:
    match wanted.WhichOneof("format"):
        case "json_schema":
            return ResponseFormat(wanted.json_schema)
        case "json_object":
            return ResponseFormat() if wanted.json_object else None
        case _:
            return None


def response(output: Output, adapter_digest: str) -> engine_pb2.StreamTokensResponse:
    """A piece of the answer as the wire has it; `adapter_digest` is for the first piece."""
    piece = inference_pb2.GenerateResponse(
        text=output.text,
        token_ids=output.token_ids,
        logprobs=[_logprob(chance) for chance in output.logprobs],
        adapter_digest=adapter_digest,
        index=output.index,
    )
    if output.finish_reason is not None:
        piece.finish_reason = _FINISH[output.finish_reason]
    if output.is_last:
        piece.usage.prompt_tokens = output.prompt_tokens
        piece.usage.cached_prompt_tokens = output.cached_prompt_tokens
        piece.usage.completion_tokens = output.completion_tokens
    begins = output.completion_tokens == len(output.token_ids)
    return engine_pb2.StreamTokensResponse(generate=piece, prompt_tokens=output.prompt_tokens if begins else 0)


def _chat_ids(chat: inference_pb2.ChatInput, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    if not chat.messages:
        raise InvalidArgument.for_field("chat.messages", "There must be at least one message.")
    problems = Problems(line=1)
    messages = [_message(turn, f"chat.messages[{n}]", problems) for n, turn in enumerate(chat.messages)]
    tools = read_tools([_object(tool) for tool in chat.tools], "chat.tools", problems)
    if problems.found:
        violations = tuple(FieldViolation(p.path, f"{p.message} {p.hint}") for p in problems.found)
        raise InvalidArgument.for_fields(violations)
    try:
        return tuple(tokenizer.encode_prompt(messages, tools))
    except TemplateError as error:
        raise InvalidArgument.for_field("chat.messages", str(error)) from None


def _message(turn: inference_pb2.ChatMessage, path: str, problems: Problems) -> Message:
    fields: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        fields["tool_calls"] = [_object(call) for call in turn.tool_calls]
        fields["content"] = turn.content or None
    if turn.name:
        fields["name"] = turn.name
    if turn.tool_call_id:
        fields["tool_call_id"] = turn.tool_call_id
    return read_message(fields, path, problems)


def _object(struct: Struct) -> dict[str, Any]:
    return {key: _value(value) for key, value in struct.fields.items()}


def _value(value: Value) -> Any:
    """A JSON value; a whole number comes back as one, for the template would write 1.0 where training data had 1."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return _object(value.struct_value)
        case "list_value":
            return [_value(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _logprob(chance: TokenChance) -> inference_pb2.TokenLogprob:
    alternative = inference_pb2.TokenLogprob.Alternative
    return inference_pb2.TokenLogprob(
        token_id=chance.token_id,
        text=chance.text,
        logprob=chance.logprob,
        alternatives=[alternative(token_id=a.token_id, text=a.text, logprob=a.logprob) for a in chance.alternatives],
    )
