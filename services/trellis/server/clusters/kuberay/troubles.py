"""Why a run does not start, or was ended from outside: read from its pods, what is said of them, and its RayJob."""

from collections.abc import Sequence
from typing import Any

from trellis.server.domain.run_trouble import RunTrouble


def run_trouble(
    pods: Sequence[dict[str, Any]],  # noqa: ARG001
    events: Sequence[dict[str, Any]],  # noqa: ARG001
    ray_job: dict[str, Any],  # noqa: ARG001
) -> RunTrouble | None:
    """What is wrong with a run, if anything is; all as Kubernetes' API gives it.

    `events` are those of the RayJob, its RayCluster, its pods, and Kueue's Workload of it.
    """
    return None
