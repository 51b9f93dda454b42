"""A replica whose engine has ended says so, and Serve replaces it."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.workshop import Workshop, make_workshop

from trellis.engine import Engine, Output, Request
from trellis.errors import Reason, Unavailable
from trellis.serving.loop import EngineLoop
from trellis.serving.replica import Replica

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def break_off(_: Engine) -> None:
    raise SystemError("What nobody foresaw.")


def break_off_midway(engine: Engine) -> None:
    if engine.last_step.number == 3:
        break_off(engine)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("health"))


async def ended(loop: EngineLoop) -> None:
    deadline = time.monotonic() + 20
    while loop.is_alive:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_replica_is_ill_when_its_engines_thread_has_ended(workshop: Workshop) -> None:
    loop = EngineLoop(workshop.engine())
    replica = object.__new__(Replica)  # without a Ray to run in
    replica._engine = loop  # type: ignore[assignment]
    loop.start()
    replica.check_health()
    loop.tell(break_off)
    await ended(loop)
    with pytest.raises(RuntimeError, match="has ended"):
        replica.check_health()


async def test_when_the_thread_ends_every_stream_does(workshop: Workshop) -> None:
    """One that has begun to answer, and one that is opened when all is over."""
    loop = EngineLoop(workshop.engine(), break_off_midway)
    loop.start()
    async with asyncio.timeout(20):
        begun = [piece async for piece in loop.stream(Request("begun", (5, 6), max_tokens=100))]
        assert len(begun) == 3, "the pieces of two steps, and the error"
        is_told(begun)
        await ended(loop)
        is_told([piece async for piece in loop.stream(Request("late", (5, 6)))])


async def test_a_stream_that_was_opened_as_the_thread_ended_is_told(workshop: Workshop) -> None:
    loop = EngineLoop(workshop.engine())
    loop.tell(break_off)  # before what the stream asks for
    waiting = asyncio.create_task(anext(loop.stream(Request("waiting", (5, 6)))))
    await asyncio.sleep(0)
    loop.start()
    async with asyncio.timeout(20):
        is_told([await waiting])


def is_told(pieces: list[Output]) -> None:
    error = pieces[-1].error
    assert isinstance(error, Unavailable)
    assert (error.reason, error.STATUS) == (Reason.ENGINE_UNAVAILABLE, "UNAVAILABLE")
    assert "The engine has ended" in str(error)
    assert error.retry_after
    assert pieces[-1].is_last
    assert all(piece.error is None for piece in pieces[:-1])
