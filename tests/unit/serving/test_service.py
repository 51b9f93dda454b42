from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest
import pytest_asyncio
from tests.workshop import Workshop, make_workshop

from trellis.engine import Engine, Output
from trellis.engine_wire import MESSAGE, STATUS, FrameReader, read_error
from trellis.errors import DeadlineExceeded, InternalError, InvalidArgument, NotFound, ResourceExhausted
from trellis.lora.host import HostAdapter
from trellis.serving.loop import EngineLoop
from trellis.serving.service import EngineService
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse
from trellis.v1.inference_pb2 import ChatInput, ChatMessage, GenerateRequest, SamplingParams


class Seen:
    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.tenants: list[str] = []

    def begin(self, tenant: str) -> None:
        self.tenants.append(tenant)

    def see(self, output: Output) -> None:
        pass

    def end(self, outcome: str) -> None:
        self.outcomes.append(str(outcome))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("service"))


class Bench:
    def __init__(self, workshop: Workshop, engine: Engine) -> None:
        self.engine = engine
        self.steps = 0
        self.loop = EngineLoop(engine, self._count)
        self.service = EngineService(self.loop, workshop.tokenizer)
        self.seen = Seen()

    def _count(self, _engine: Engine) -> None:
        self.steps += 1

    async def call(self, request: StreamTokensRequest) -> list[tuple[int, bytes]]:
        reader = FrameReader()
        frames = self.service.frames(request.SerializeToString(), self.seen)
        return [found async for data in frames for found in reader.push(data)]

    async def idle(self) -> None:
        async with asyncio.timeout(20):
            while self.engine.has_work or self.engine.usage.pins or self.engine.usage.kv_blocks_used:
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def bench(workshop: Workshop) -> AsyncIterator[Bench]:
    with ThreadPoolExecutor(2) as threads:
        bench = Bench(workshop, workshop.engine(max_running=2, max_waiting=1, executor=threads))
        bench.loop.start()
        yield bench
        bench.loop.stop()
        assert not bench.loop.is_alive


def call(digest: str = "", max_tokens: int = 5) -> StreamTokensRequest:
    generate = GenerateRequest(prompt="hello", sampling=SamplingParams(temperature=0), max_tokens=max_tokens)
    return StreamTokensRequest(adapter_digest=digest, adapter_key=f"adapters/{digest}", generate=generate)


def error_of(frames: list[tuple[int, bytes]]) -> Exception:
    assert frames[-1][0] == STATUS
    return read_error(frames[-1][1])


async def test_an_answer_in_frames(bench: Bench, workshop: Workshop) -> None:
    digest = workshop.store_adapter(1)
    frames = await bench.call(call(digest))
    pieces = [StreamTokensResponse.FromString(data).generate for kind, data in frames if kind == MESSAGE]
    assert pieces[0].adapter_digest == digest
    assert pieces[-1].usage.prompt_tokens == 5
    assert not pieces[0].HasField("usage")
    assert len(bench.seen.outcomes) == 1
    await bench.idle()


async def test_several_answers_of_a_shape_in_frames(bench: Bench) -> None:
    asked = call(max_tokens=60)
    asked.generate.n = 2
    asked.generate.sampling.temperature = 1
    asked.generate.sampling.seed = 3
    asked.generate.response_format.json_schema = '{"enum": ["yes", "no"]}'
    frames = await bench.call(asked)
    pieces = [StreamTokensResponse.FromString(data).generate for _, data in frames]
    texts = ["".join(piece.text for piece in pieces if piece.index == index) for index in range(2)]
    assert set(texts) <= {'"yes"', '"no"'}
    assert [piece.HasField("usage") for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].usage.completion_tokens == sum(len(piece.token_ids) for piece in pieces)
    asked.generate.response_format.json_schema = '{"type": "text"}'
    error = error_of(await bench.call(asked))
    assert isinstance(error, InvalidArgument)
    assert [violation.field for violation in error.violations] == ["response_format"]
    await bench.idle()


async def test_closing_cancels_and_lets_go_of_the_adapter(bench: Bench, workshop: Workshop) -> None:
    digest = workshop.store_adapter(1)
    frames = bench.service.frames(call(digest, 100).SerializeToString(), bench.seen)
    async with aclosing(frames):
        await anext(frames)
        assert bench.engine.usage.pins == 1
    await bench.idle()
    assert bench.seen.outcomes == ["CANCELLED"]


async def test_a_full_engine_says_so(bench: Bench) -> None:
    answers = await asyncio.gather(*(bench.call(call(max_tokens=60)) for _ in range(6)))
    errors = [error_of(frames) for frames in answers if frames[-1][0] == STATUS]
    assert errors
    assert all(isinstance(error, ResourceExhausted) and error.retry_after for error in errors)
    assert len(errors) < 6


async def test_errors_come_as_a_status(bench: Bench) -> None:
    assert isinstance(error_of(await bench.call(call("0" * 64))), NotFound)
    too_long = error_of(await bench.call(call(max_tokens=1000)))
    assert isinstance(too_long, InvalidArgument)
    assert too_long.metadata["context_length"] == "128"
    assert isinstance(error_of(await bench.call(StreamTokensRequest())), InvalidArgument)
    assert bench.seen.outcomes == ["RESOURCE_NOT_FOUND", "CONTEXT_EXCEEDED", "INVALID_FIELD"]
    frames = [found async for data in bench.service.frames(b"\xff", bench.seen) for found in FrameReader().push(data)]
    assert isinstance(error_of(frames), InvalidArgument)


async def test_wrong_turns_are_all_named(bench: Bench) -> None:
    chat = ChatInput(messages=[ChatMessage(role="wizard", content="x"), ChatMessage(role="tool", content="y")])
    error = error_of(await bench.call(StreamTokensRequest(generate=GenerateRequest(chat=chat))))
    assert isinstance(error, InvalidArgument)
    assert [v.field for v in error.violations] == ["chat.messages[0].role", "chat.messages[1]"]


async def test_a_broken_step_fails_what_is_in_flight_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode() -> list[Output]:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", lambda _: explode())
        assert isinstance(error_of(await bench.call(call())), InternalError)
    assert (await bench.call(call()))[-1][0] == MESSAGE


class Gate:
    """A store's loads that wait until they are let through."""

    def __init__(self, workshop: Workshop) -> None:
        self.started, self.open = threading.Event(), threading.Event()
        self._load = workshop.loader.load

    def __call__(self, digest: str, key: str) -> HostAdapter:
        self.started.set()
        assert self.open.wait(10)
        return self._load(digest, key)


@pytest.fixture
def gate(workshop: Workshop, bench: Bench) -> Gate:
    gate = Gate(workshop)
    bench.engine._tiers._load = gate
    return gate


async def test_the_thread_sleeps_while_an_adapter_loads_and_others_are_answered(
    bench: Bench, gate: Gate, workshop: Workshop
) -> None:
    digest = workshop.store_adapter(7)
    waiting = asyncio.create_task(bench.call(call(digest)))
    await asyncio.to_thread(gate.started.wait, 10)
    assert (await bench.call(call()))[-1][0] == MESSAGE
    steps = bench.steps
    assert (await bench.call(call()))[-1][0] == MESSAGE
    assert bench.steps - steps < 20, "it goes round while it waits"
    gate.open.set()
    frames = await waiting
    assert StreamTokensResponse.FromString(frames[-1][1]).generate.usage.completion_tokens
    await bench.idle()


async def test_who_leaves_while_the_adapter_loads_leaves_nothing(bench: Bench, gate: Gate, workshop: Workshop) -> None:
    digest = workshop.store_adapter(8)
    task = asyncio.create_task(bench.call(call(digest)))
    await asyncio.to_thread(gate.started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bench.idle()
    gate.open.set()
    async with asyncio.timeout(10):
        while digest not in bench.engine.usage.host_digests:
            await asyncio.sleep(0.01)
    assert bench.engine.usage.resident_digests == ()


async def test_a_deadline_ends_the_wait_for_an_adapter(bench: Bench, gate: Gate, workshop: Workshop) -> None:
    late = call(workshop.store_adapter(9))
    late.deadline_seconds = 0.02
    assert isinstance(error_of(await bench.call(late)), DeadlineExceeded)
    gate.open.set()


async def test_several_answers_come_with_their_index_and_one_usage(bench: Bench) -> None:
    wanted = call()
    wanted.generate.n = 2
    pieces = [StreamTokensResponse.FromString(data).generate for _, data in await bench.call(wanted)]
    assert {piece.index for piece in pieces} == {0, 1}
    assert [piece.HasField("usage") for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].usage.completion_tokens == 10
