"""What a run printed: the submitter's pod keeps it when the Ray cluster is gone."""

from collections.abc import Iterable
from typing import Final

from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.pods import RUN
from trellis.server.clusters.kuberay.resources import PODS, Object, name_of

_SUBMITTER: Final = "ray-job-submitter"
_HEAD: Final = "ray-head"


async def run_log(api: KubeApi, selector: str, run: str, max_bytes: int) -> str:
    """The end of the submitter's output, or where that has none, of the head's: what Ray itself said as it started."""
    pods = (await api.list(PODS, f"{selector},{RUN}={run}")).items
    for container in (_SUBMITTER, _HEAD):
        for pod in _newest_first(pods, container):
            text = await api.log_tail(name_of(pod), container, max_bytes)
            if text.strip():
                return _from_a_line(text, max_bytes)
    return ""


def _newest_first(pods: Iterable[Object], container: str) -> list[Object]:
    having = [pod for pod in pods if any(one["name"] == container for one in pod["spec"]["containers"])]
    return sorted(having, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)


def _from_a_line(text: str, max_bytes: int) -> str:
    if len(text.encode()) <= max_bytes:
        return text
    tail = text.encode()[-max_bytes:].decode(errors="ignore")
    return tail.partition("\n")[2] or tail
