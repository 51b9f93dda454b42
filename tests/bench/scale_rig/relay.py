"""What it takes a server to hand on a message of a model's answer: from an engine over HTTP to a caller over gRPC."""

import asyncio
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.postgres import PostgresServer
from tests.rpc_server import open_door
from tests.server_fakes import make_world, prepare
from trellis.local.ports import free_ports
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import migrate
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

_LISTENER: Final = "tests.bench.scale_rig.listener"
_CALLS: Final = 20
"""That each caller makes, one after the other."""


@dataclass(frozen=True, slots=True)
class Relay:
    """CPU seconds of the server's process; the engine and the callers are in another one."""

    lone_call: float
    """Of a call with one message, while there is no other."""
    call: float
    """Of one of many at once."""
    message: float
    """Of each further message."""


async def measure_relay(postgres: PostgresServer, folder: Path, streams: int, messages: int) -> Relay:
    """Calls one after the other, as many streams of calls at once, and so many answers at once of many messages."""
    url = postgres.url(postgres.create_database())
    await migrate(url)
    database = create_engine_for(url)
    (port,) = free_ports(1)
    world = make_world(SqlUnitOfWorkFactory(database), folder)
    await prepare(world.context, "acme", "globex")
    engines = ServeCluster("http://127.0.0.1:9", EngineSettings(str(folder), "a secret", http_port=port))
    world = replace(world, context=replace(world.context, engines=engines))
    try:
        async with open_door(world) as door:
            reached = (door.address, door.secrets["member"], str(port))
            await _cpu(reached, streams, 1, 2)
            lone = await _cpu(reached, 1, 1, _CALLS) / _CALLS
            call = await _cpu(reached, streams, 1, _CALLS) / streams / _CALLS
            burst, many = await _cpu(reached, streams, 1, 1), await _cpu(reached, streams, messages, 1)
    finally:
        await engines.close()
        await database.dispose()
    return Relay(lone, call, (many - burst) / streams / (messages - 1))


async def _cpu(reached: tuple[str, ...], streams: int, messages: int, calls: int) -> float:
    """CPU seconds of this process while another one calls."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _LISTENER, *reached, str(streams), str(messages), str(calls), stdin=-1, stdout=-1
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert await process.stdout.readline() == b"ready\n"
    began = time.process_time()
    process.stdin.write(b"go\n")
    heard = await process.stdout.readline()
    took = time.process_time() - began
    assert await process.wait() == 0
    _, tokens = map(int, heard.split())
    assert tokens == streams * messages * calls
    return took
