"""A replica whose engine has ended says so, and Serve replaces it."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.workshop import make_workshop

from trellis.engine import Engine
from trellis.serving.app import EngineReplica
from trellis.serving.loop import EngineLoop


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_replica_is_ill_when_its_engines_thread_has_ended(tmp_path_factory: pytest.TempPathFactory) -> None:
    def break_off(_: Engine) -> None:
        raise SystemError("What nobody foresaw.")

    loop = EngineLoop(make_workshop(tmp_path_factory.mktemp("health")).engine())
    replica = object.__new__(EngineReplica)  # without a Ray to run in
    replica._engine = loop  # type: ignore[assignment]
    loop.start()
    replica.check_health()
    loop.tell(break_off)
    deadline = time.monotonic() + 20
    while loop.is_alive:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="has ended"):
        replica.check_health()
