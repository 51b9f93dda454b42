"""Runs the server: `python -m trellis.server`, with the settings of config.py from the environment."""

import asyncio
import os
import signal
import sys
from dataclasses import replace

import structlog

from trellis import tracing
from trellis.bases import BaseModelError
from trellis.errors import TrellisError
from trellis.server.bootstrap import Platform, build
from trellis.server.config import ConfigError, ServerConfig
from trellis.server.configured_bases import ConfiguredBases
from trellis.server.control.loop import ControlLoop
from trellis.server.database_start import Readiness, until_usable
from trellis.server.first_start import ensure_admin_key, forget_leases, use_admin_key
from trellis.server.http import HealthServer
from trellis.server.listeners import listening_servers
from trellis.server.logging import configure_logging
from trellis.tracing import TracingError

_log = structlog.get_logger(__name__)
_READY_SECONDS = 3.0
_LATE_BASES_SECONDS = 5.0
"""How often a server looks whether the base models are there that were not when it started."""


def main() -> int:
    """Serve until SIGTERM or SIGINT; the process's exit status."""
    try:
        config = ServerConfig.from_environment(os.environ)
        configure_logging(config.log_format, config.log_level)
        tracing.start("trellis-server")
        asyncio.run(serve(config))
    except (ConfigError, BaseModelError, TracingError, TrellisError, OSError) as error:
        print(f"trellis server: {error}", file=sys.stderr)  # noqa: T201  there may be no log yet
        return 1
    finally:
        tracing.stop()
    return 0


async def serve(config: ServerConfig) -> None:
    """Start, serve until told to stop, and end without losing a call that can still be answered."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    readiness = Readiness()
    health = HealthServer(readiness.missing)
    await health.start(config.http_address.host, config.http_address.port)
    try:
        if await until_usable(config.database_url, config.migrate, readiness, stop):
            await _serve(config, readiness, stop)
    finally:
        await health.stop()


async def _serve(config: ServerConfig, readiness: Readiness, stop: asyncio.Event) -> None:
    platform = build(config)
    try:
        if config.first_admin_key_file is not None:
            await use_admin_key(platform.context, config.first_admin_key_file)
        if config.admin_key_file is not None:
            await ensure_admin_key(platform.context, config.admin_key_file)
        bases = ConfiguredBases(platform.context, config.base_models)
        await bases.register()
        if bases.late:
            platform = replace(platform, loops=(*platform.loops, ControlLoop(bases, _LATE_BASES_SECONDS)))
        if config.is_alone:
            await forget_leases(platform.context)
        await _run(platform, readiness, stop)
    finally:
        await platform.close()


async def _run(platform: Platform, readiness: Readiness, stop: asyncio.Event) -> None:
    config = platform.config
    servers = listening_servers(config, platform.context, platform.health, platform.server)
    for server in servers:
        await server.start()
    loops = [asyncio.create_task(loop.run(), name=loop.name) for loop in platform.loops]
    readiness.asks(lambda: _missing(platform, stop))
    _log.info("serving", grpc=str(config.grpc_address), tls=config.tls.enabled, http=str(config.http_address))
    await stop.wait()
    _log.info("stopping")
    await platform.health.enter_graceful_shutdown()
    # Whoever spreads calls over servers has the time to see that this one wants no more, while all are still answered.
    await asyncio.sleep(config.drain_seconds)
    platform.pause.stop()
    for loop in platform.loops:
        loop.stop()
    await asyncio.gather(*(server.stop(config.shutdown_seconds) for server in servers))
    await platform.context.drain()
    _, late = await asyncio.wait(loops, timeout=config.shutdown_seconds)
    for task in late:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    _log.info("stopped")


async def _missing(platform: Platform, stop: asyncio.Event) -> str | None:
    """A sentence on why no call should come here; None if any may."""
    if stop.is_set():
        return "The server is stopping."
    # Not cancelled when it is late: to give a connection up takes the driver longer than whoever asks here waits.
    asking = asyncio.create_task(_ask_database(platform))
    asking.add_done_callback(lambda task: task.cancelled() or task.exception())
    done, _ = await asyncio.wait({asking}, timeout=_READY_SECONDS)
    if not done:
        return "The database does not answer: nothing came back."
    error = asking.exception()
    return f"The database does not answer: {error}" if error else None


async def _ask_database(platform: Platform) -> None:
    async with platform.context.units(write=False) as unit:
        await unit.base_models.default()
