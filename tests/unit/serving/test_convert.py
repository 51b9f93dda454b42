"""Between the wire's messages and the engine's."""

import pytest

from trellis.engine import AdapterRef, FinishReason, Output, Request, ResponseFormat, Sampling
from trellis.errors import InvalidArgument
from trellis.serving.convert import engine_request, response
from trellis.v1 import inference_pb2
from trellis.v1.engine_pb2 import StreamTokensRequest
from trellis.v1.inference_pb2 import GenerateRequest, SamplingParams


def converted(call: StreamTokensRequest | None = None, **generate: object) -> Request:
    call = call or StreamTokensRequest()
    call.generate.CopyFrom(GenerateRequest(**generate))
    return engine_request("r", call, (1, 2), now=100.0)


def test_what_is_not_said_is_the_default() -> None:
    assert converted() == Request("r", (1, 2))


def test_all_that_is_said_comes_through() -> None:
    call = StreamTokensRequest(
        tenant_id="acme", adapter_digest="d", adapter_key="k", tenant_weight=2.5, deadline_seconds=1.5
    )
    sampling = {
        "temperature": 0.0, "top_p": 0.5, "top_k": 3, "seed": 0, "min_p": 0.25, "repetition_penalty": 1.5,
        "presence_penalty": -2.0, "frequency_penalty": 0.5,
    }  # fmt: skip
    found = converted(call, sampling=SamplingParams(**sampling), max_tokens=7, stop=["a", "b"], logprobs=0, n=3)
    assert found == Request(
        "r",
        (1, 2),
        AdapterRef("d", "k"),
        tenant="acme",
        weight=2.5,
        sampling=Sampling(**sampling),
        max_tokens=7,
        stop=("a", "b"),
        logprobs=0,
        n=3,
        deadline=101.5,
    )
    found.check()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, None),
        ({"json_schema": "{}"}, ResponseFormat("{}")),
        ({"json_schema": ""}, ResponseFormat("")),
        ({"json_object": True}, ResponseFormat()),
        ({"json_object": False}, None),
    ],
)
def test_the_shape_of_an_answer(wanted: dict[str, object], expected: ResponseFormat | None) -> None:
    assert converted(response_format=inference_pb2.ResponseFormat(**wanted)).response_format == expected


@pytest.mark.parametrize(
    ("field", "generate"),
    [
        ("sampling.min_p", {"sampling": SamplingParams(min_p=-0.1)}),
        ("sampling.repetition_penalty", {"sampling": SamplingParams(repetition_penalty=0)}),
        ("sampling.presence_penalty", {"sampling": SamplingParams(presence_penalty=2.5)}),
        ("sampling.frequency_penalty", {"sampling": SamplingParams(frequency_penalty=float("nan"))}),
        ("n", {"n": 9}),
        ("n", {"n": -1}),
    ],
)
def test_what_is_wrong_has_the_name_that_the_caller_knows(field: str, generate: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as raised:
        converted(**generate).check()
    assert [violation.field for violation in raised.value.violations] == [field]


def test_usage_comes_with_the_last_piece_of_all() -> None:
    first = Output("r", index=1, text="a", finish_reason=FinishReason.STOP, prompt_tokens=5, completion_tokens=2)
    piece = response(first, "digest").generate
    assert (piece.index, piece.adapter_digest, piece.finish_reason) == (1, "digest", inference_pb2.FINISH_REASON_STOP)
    assert not piece.HasField("usage")
    last = Output("r", prompt_tokens=5, cached_prompt_tokens=4, completion_tokens=9, is_last=True)
    assert response(last, "").generate.usage == inference_pb2.Usage(
        prompt_tokens=5, cached_prompt_tokens=4, completion_tokens=9
    )


def test_the_first_piece_says_how_long_the_prompt_is() -> None:
    pieces = [
        Output("r", index=index, token_ids=(9,), prompt_tokens=5, completion_tokens=count)
        for count, index in enumerate((0, 1, 0), 1)
    ]
    assert [response(piece, "").prompt_tokens for piece in pieces] == [5, 0, 0]
