"""The loop that keeps clusters tells what it finds, once a change."""

from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import KeptCluster
from trellis.server.control.keep_clusters import KeepClusters
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode

NO_NODE = RunTrouble(TroubleCode.UNSCHEDULABLE, "A worker waits for a node.")
NO_IMAGE = RunTrouble(TroubleCode.IMAGE_PULL, "A worker waits for its image.")


class Scripted:
    """Clusters that are found so, one after the other."""

    def __init__(self, *found: KeptCluster | Unavailable) -> None:
        self._found = list(found)

    async def keep(self) -> Sequence[KeptCluster]:
        one = self._found.pop(0)
        if isinstance(one, Unavailable):
            raise one
        return [one]


def value(metric: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(metric, labels)


async def rounds(*found: KeptCluster | Unavailable) -> list[Any]:
    step = KeepClusters(None, Scripted(*found))  # type: ignore[arg-type]
    with capture_logs() as logs:
        for _ in found:
            assert await step.once() is False
    return [line["event"] for line in logs]


async def test_changes_and_troubles_are_told_once() -> None:
    name = "keep-test"
    said = await rounds(
        KeptCluster(name, "made"),
        KeptCluster(name, "", NO_NODE),
        KeptCluster(name, "", NO_NODE),
        KeptCluster(name, "corrected", NO_IMAGE),
        KeptCluster(name),
        KeptCluster(name),
    )
    assert said == ["cluster_kept", "cluster_in_trouble", "cluster_kept", "cluster_in_trouble", "cluster_recovered"]
    changes = "trellis_standing_cluster_changes_total"
    assert [value(changes, cluster=name, change=change) for change in ("made", "corrected")] == [1.0, 1.0]
    troubles = "trellis_standing_cluster_trouble"
    assert [value(troubles, cluster=name, code=code) for code in ("UNSCHEDULABLE", "IMAGE_PULL")] == [0.0, 0.0]


async def test_what_stays_unreachable_is_told_once() -> None:
    away = Unavailable(Reason.ENGINE_UNAVAILABLE, "Kubernetes can't be reached.", retry_after=1.0)
    assert await rounds(away, away, KeptCluster("a"), away) == ["clusters_not_kept", "clusters_not_kept"]


async def test_another_fault_is_the_loops() -> None:
    class Broken:
        async def keep(self) -> Sequence[KeptCluster]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        await KeepClusters(None, Broken()).once()  # type: ignore[arg-type]
