"""What ended pods of the trainers' cluster from outside, remembered as it happens: KubeRay deletes pods that failed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.informer import Informer
from trellis.server.clusters.kuberay.manifests import selector, trainers_name
from trellis.server.clusters.kuberay.pod_ends import pod_end
from trellis.server.clusters.kuberay.pod_words import condition_of, containers_of, event_time
from trellis.server.clusters.kuberay.pods import COMPONENT
from trellis.server.clusters.kuberay.resources import EVENTS, PODS, Object, name_of
from trellis.server.clusters.kuberay.settings import KubeRaySettings
from trellis.server.clusters.kuberay.troubles import worst
from trellis.server.domain.run_trouble import RunTrouble

_MOST: Final = 1000
_TRAINERS: Final = "trainers"
_HOSTNAME_CHARACTERS: Final = 63


@dataclass(frozen=True, slots=True)
class _End:
    time: datetime
    trouble: RunTrouble


class EndedPods:
    """`HostEnds` over two watches; see app.hosts. What was not seen, as no watch was open, is not known."""

    def __init__(
        self, api: KubeApi, settings: KubeRaySettings, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._prefix = f"{trainers_name(settings)}-"
        self._clock = clock
        self._pods = Informer(api, PODS, f"{selector(settings)},{COMPONENT}={_TRAINERS}", hear=self._hear_pod)
        self._events = Informer(api, EVENTS, hear=self._hear_event)
        self._ends: dict[str, _End] = {}
        """By pod, the latest."""

    def start(self) -> None:
        """Watch from now on; may be called often."""
        self._pods.start()
        self._events.start()

    async def close(self) -> None:
        """Ends the watches."""
        await self._pods.close()
        await self._events.close()

    async def ended(self, host: str, since: datetime, until: datetime | None = None) -> RunTrouble | None:
        """What ended the pod of that host name, or any pod of the cluster if it is empty, between then."""
        self.start()
        return worst(
            end.trouble
            for pod, end in self._ends.items()
            if since <= end.time and (until is None or end.time <= until) and (not host or _is_host(pod, host))
        )

    async def until_fresh(self) -> None:
        """Waits until both watches are open."""
        await self._pods.until_fresh()
        await self._events.until_fresh()

    def _hear_pod(self, pod: Object) -> None:
        trouble = pod_end(pod, ())
        if trouble is not None:
            self._remember(name_of(pod), trouble, _end_time(pod))

    def _hear_event(self, event: Object) -> None:
        about = event["involvedObject"]
        pod = str(about.get("name") or "")
        if about.get("kind") != "Pod" or not pod.startswith(self._prefix):
            return
        trouble = pod_end(_gone(pod), (event,))
        if trouble is not None:
            self._remember(pod, trouble, _time(event_time(event)))

    def _remember(self, pod: str, trouble: RunTrouble, time: datetime | None) -> None:
        known = self._ends.get(pod)
        if known is not None and (time is None or time <= known.time):
            return  # heard again
        self._ends.pop(pod, None)
        self._ends[pod] = _End(time or self._clock(), trouble)
        while len(self._ends) > _MOST:
            del self._ends[next(iter(self._ends))]


def _gone(pod: str) -> Mapping[str, Any]:
    """As much of a pod that is gone as its name tells."""
    container = "ray-head" if "-head-" in pod else "ray-worker"
    labels = {COMPONENT: _TRAINERS}
    return {"metadata": {"name": pod, "labels": labels}, "spec": {"containers": [{"name": container}]}}


def _end_time(pod: Object) -> datetime | None:
    ends = [
        str((state.get(which, {}).get("terminated") or {}).get("finishedAt") or "")
        for state in containers_of(pod)
        for which in ("state", "lastState")
    ]
    target = str(condition_of(pod, "DisruptionTarget").get("lastTransitionTime") or "")
    return _time(max([*ends, target]))


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _is_host(pod: str, host: str) -> bool:
    return pod[:_HOSTNAME_CHARACTERS] == host
