"""Limits hold for all server processes together: two on one PostgreSQL, and one on SQLite."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_server_process import data
from tests.server_process import Server

import trellis
from trellis.local.ports import free_ports

__all__ = ["data"]
SUBMITS, LIMIT = 50, 10


@pytest.fixture
def servers(database: str, database_url: str, tmp_path: Path) -> Iterator[list[Server]]:
    """The processes, over one database and one object store."""
    names = ("one", "other") if database == "postgresql" else ("one",)
    ports = iter(free_ports(2 * len(names)))
    started = [Server(tmp_path, next(ports), next(ports), database_url, name) for name in names]
    for server in started:
        server.start()
        server.until_ready()
    yield started
    for server in started:
        server.end()


async def outcomes(calls: Sequence[Awaitable[Any]]) -> tuple[list[Any], list[trellis.TrellisError]]:
    """What came of calls that are made at once: answers and errors."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    errors = [one for one in done if isinstance(one, trellis.TrellisError)]
    assert len(errors) == sum(isinstance(one, BaseException) for one in done), done
    return [one for one in done if not isinstance(one, BaseException)], errors


async def test_of_fifty_submits_at_once_exactly_ten_are_taken_and_calls_keep_to_the_rate(
    servers: list[Server], data: Path
) -> None:
    with servers[0].client() as admin:
        admin.tenants.create("acme", quota=trellis.Quota(open_jobs=LIMIT, requests_per_minute=LIMIT))
        secret = admin.api_keys.create("tenants/acme").secret
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                trellis.AsyncClient(f"localhost:{server.grpc_port}", api_key=secret, tenant="acme")
            )
            for server in servers
        ]
        await clients[0].datasets.upload(data, dataset="pings")

        turns = itertools.islice(itertools.cycle(clients), SUBMITS)
        jobs, errors = await outcomes([client.jobs.create("pings") for client in turns])
        assert (len(jobs), len(errors)) == (LIMIT, SUBMITS - LIMIT)
        assert {error.reason for error in errors} == {trellis.Reason.QUOTA_EXCEEDED}
        assert {type(error) for error in errors} == {trellis.ResourceExhausted}
        for error in errors:
            [violation] = error.quota_violations
            assert (violation.subject, violation.limit) == ("tenants/acme", "open_jobs")
            assert (violation.allowed, violation.used, violation.asked) == (LIMIT, LIMIT, 1)
            assert error.retry_after
        assert {job.name async for job in clients[-1].jobs.list()} == {job.name for job in jobs}
        status = await clients[-1].usage.quota()
        [open_jobs] = [limit for limit in status.limits if limit.limit == "open_jobs"]
        assert open_jobs.used == open_jobs.allowed == LIMIT

        # No engine runs here: whoever is let through hears so, and nobody asks for a further turn.
        once = trellis.Retry(attempts=1)
        hasty = [
            await stack.enter_async_context(
                trellis.AsyncClient(f"localhost:{server.grpc_port}", api_key=secret, tenant="acme", retry=once)
            )
            for server in servers
        ]
        turns = itertools.islice(itertools.cycle(hasty), 3 * LIMIT)
        calls = [client.generate("baseModels/tiny", prompt="Hi") for client in turns]
        begun = time.monotonic()
        answers, errors = await outcomes(calls)
        seconds = time.monotonic() - begun
        limited = [error for error in errors if error.reason == trellis.Reason.RATE_LIMITED]
        # On a machine that is slow a further turn comes while they are made, every six seconds.
        further = int(seconds // 6.0)
        assert not answers
        assert 2 * LIMIT - further <= len(limited) <= 2 * LIMIT
        assert all(error.retry_after and max(0.0, 6.0 - seconds) <= error.retry_after <= 6.0 for error in limited)
