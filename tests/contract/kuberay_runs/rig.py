"""Runs on the stand-in for Kubernetes, and waiting for what becomes of them."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from tests.job_cluster_fake import FakeJobCluster
from tests.kube.kinds import BY_KIND
from tests.kube.rig import Kube
from tests.kuberay_settings import LAPTOP, a_run

from trellis.server.app.hosts import RunReport, RunRequest, RunStatus
from trellis.server.clusters.kuberay.jobs import KubeRayCluster
from trellis.server.clusters.kuberay.resources import Object, name_of
from trellis.server.clusters.kuberay.settings import KubeRaySettings

SECONDS = 30
ENDED = (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that happens by itself."""
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.02)


def printing(text: str, *, seconds: float = 0.0, name: str = "a", **changes: Any) -> RunRequest:
    """A run without workers that prints, and stays so long."""
    program = f"import time; print({text!r}, flush=True); time.sleep({seconds})"
    return a_run(
        submission_id=f"trellis-0a1b2c3d-{name}-1", entrypoint=(sys.executable, "-c", program), workers=0, **changes
    )


class Servers:
    """Several servers beside each other, each with its own connections and copies."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.standing = FakeJobCluster()
        self._stack = AsyncExitStack()

    def new(self, settings: KubeRaySettings = LAPTOP, **options: Any) -> KubeRayCluster:
        """Another server."""
        one = KubeRayCluster(self.kube.api(), settings, self.standing, **options)
        self._stack.push_async_callback(one.close)
        return one

    async def close(self) -> None:
        """Ends them all."""
        await self._stack.aclose()

    def names(self, kind: str) -> list[str]:
        """Of the objects that there are."""
        return [name_of(one) for one in self.objects(kind)]

    def objects(self, kind: str) -> list[Object]:
        """As they are."""
        return self.kube.store.list(BY_KIND[kind], "trellis")


async def until_in(cluster: KubeRayCluster, request: RunRequest, *statuses: RunStatus) -> RunReport:
    """Wait until the run is in one of these."""
    async with asyncio.timeout(SECONDS):
        while True:
            report = await cluster.status(request.submission_id)
            if report.status in statuses:
                return report
            assert report.status not in ENDED, report
            await asyncio.sleep(0.03)


async def until_it_prints(cluster: KubeRayCluster, request: RunRequest, text: str) -> None:
    """Wait for a line of its output."""
    async with asyncio.timeout(SECONDS):
        while f"\n{text}\n" not in await cluster.log_tail(request.submission_id, 10_000):
            await asyncio.sleep(0.03)
