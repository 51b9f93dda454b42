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


@dataclass(frozen=True, slots=True)
class Relay:
    """CPU seconds of the server's process; the engine and the callers are in another one."""

    call: float
    """Of a call with one message."""
    message: float
    """Of each further message."""


async def measure_relay(postgres: PostgresServer, folder: Path, streams: int, messages: int) -> Relay:
    """So many streams at once, of one message each and then of many."""
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
            arguments = (door.address, door.secrets["member"], str(port), str(streams))
            await _cpu(arguments, 1)
            one, many = await _cpu(arguments, 1), await _cpu(arguments, messages)
    finally:
        await engines.close()
        await database.dispose()
    return Relay(one / streams, (many - one) / streams / (messages - 1))


async def _cpu(arguments: tuple[str, ...], messages: int) -> float:
    """CPU seconds of this process while another one calls."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _LISTENER, *arguments, str(messages), stdin=-1, stdout=-1
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
    assert tokens == int(arguments[3]) * messages
    return took
