"""Servers that die before and after each of their writes to Kubernetes: the next one goes on, and nothing is done twice."""

import asyncio
import base64
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.contract.control.mortal import Fuse, Killed
from tests.contract.control.platform import Platform, Server
from tests.contract.kuberay_runs.rig import Servers, until
from tests.contract.store import samples
from tests.kube.kinds import BY_KIND
from tests.kube.rig import Kube, connect_to
from tests.kuberay_settings import LAPTOP

from trellis.server.app.attempts import Process, start_attempt
from trellis.server.app.authentication import authenticate
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.jobs import KubeRayCluster
from trellis.server.clusters.kuberay.resources import name_of
from trellis.server.control.attempts import submission_id_for
from trellis.server.domain.tuning_job import JobState

MOST_ROUNDS = 80


class MortalApi(KubeApi):
    """Of a server that dies by the fuse."""

    fuse = Fuse(1_000_000)

    async def _open(self, method: str, *rest: Any, **options: Any) -> aiohttp.ClientResponse:
        if method == "GET":
            return await super()._open(method, *rest, **options)
        self.fuse.burn()
        response = await super()._open(method, *rest, **options)
        self.fuse.burn()
        return response


class World:
    """A platform on Kubernetes, of which the processes of runs are local ones that only wait."""

    def __init__(self, platform: Platform, servers: Servers, program: Path) -> None:
        program.write_text("#!/bin/sh\necho words\nexec sleep 600\n")
        program.chmod(0o755)
        platform.settings = replace(platform.settings, python=str(program))
        self.platform = platform
        self.kube: Kube = servers.kube
        self._servers = servers

    async def live_through(self, number: int, length: int) -> bool:
        """Run a new job to its end; the first server dies by the fuse. Whether it did."""
        await self.platform.add_jobs(samples.alone(number))
        uid, died = f"uid-acme-{number}", False
        server, cluster = self._server(length)
        for _ in range(MOST_ROUNDS):
            try:
                await server.round()
            except Killed:
                assert not died
                await cluster.close()
                server, cluster = self._server(1_000_000)
                died = True
                self.platform.clock.pass_seconds(15)  # what the dead one had claimed is free again
            await self._go_on(number)
            self.platform.clock.pass_seconds(3)
            if (await self.platform.job(uid)).ended and (await self.platform.attempts(uid))[-1].cleaned_up:
                await cluster.close()
                return died
            await asyncio.sleep(0.05)
        raise AssertionError(f"the job did not end: {await self.platform.job(uid)}")

    def _server(self, length: int) -> tuple[Server, KubeRayCluster]:
        api = MortalApi("trellis", connect_to(self.kube.server.url))
        api.fuse = Fuse(length)
        cluster = KubeRayCluster(api, LAPTOP, self._servers.standing)
        return Server(replace(self.platform.control(), cluster=cluster)), cluster

    async def _go_on(self, number: int) -> None:
        """The run's process makes its first call, then says that it is done, and ends."""
        run = submission_id_for("here", f"uid-acme-{number}", 1)
        if run not in self.kube.operator.started:
            return
        secret = next((one for one in self._servers.objects("Secret") if name_of(one) == run), None)
        state = (await self.platform.job(f"uid-acme-{number}")).state
        if secret is None or state not in {JobState.STARTING, JobState.RUNNING}:
            return
        ticket = base64.b64decode(secret["data"]["TRELLIS_ATTEMPT_TICKET"]).decode()
        caller = await authenticate(self.platform.app, f"Bearer {ticket}")
        if state is JobState.STARTING:
            await start_attempt(self.platform.app, caller, Process("1", "host", 1, "n" * 32))
        else:
            await self.platform.complete_as(caller)
            for process in self.kube.kubelet.processes():
                os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("database", ["sqlite"])
async def test_a_server_that_dies_at_any_write_costs_a_job_nothing(
    units: UnitOfWorkFactory, servers: Servers, tmp_path: Path
) -> None:
    platform = Platform(units, tmp_path / "objects")
    await platform.prepare()
    world, length = World(platform, servers, tmp_path / "python"), 1
    while await world.live_through(length, length):
        assert (await platform.job(f"uid-acme-{length}")).state is JobState.SUCCEEDED
        length += 1
    assert length > 6, "three writes begin a run, one forgets it"
    runs = [submission_id_for("here", f"uid-acme-{number}", 1) for number in range(1, length + 1)]
    assert servers.kube.operator.started == runs, "each once, and at the first attempt"
    # What a server had not deleted when it died, after it had read the output, goes by itself.
    now = 0.0
    later = servers.new(clock=lambda: now)
    await later.list()
    now = LAPTOP.jobs.keep_seconds + 1.0
    await later.list()
    await until(lambda: not any(servers.names(kind) for kind in BY_KIND if kind != "Event"))
