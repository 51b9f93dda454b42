"""The stand-in or a real cluster, running, and clients of it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.kube.cluster import Kube, connect_to
from tests.kube.real import real_kube

REAL: Final = os.environ.get("TRELLIS_TEST_KUBERNETES", "")
"""The kubeconfig of a cluster that is to be asked instead of the stand-in; CONTRIBUTING.md says how."""
__all__ = ["REAL", "Kube", "connect_to", "kube"]


@asynccontextmanager
async def kube(folder: Path) -> AsyncIterator[Kube]:
    """One that runs until the end of the block."""
    if REAL:
        with real_kube(Path(REAL), folder) as real:
            async with _running(real):
                yield real
    else:
        async with _running(Kube(folder)) as one:
            yield one


@asynccontextmanager
async def _running(one: Kube) -> AsyncIterator[Kube]:
    await one.server.start()
    one.operator.start()
    try:
        yield one
    finally:
        await one.operator.close()
        await one.server.stop()
