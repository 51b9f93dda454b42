"""What containers printed, as the API gives it."""

from collections.abc import Mapping
from pathlib import Path

from tests.kube.statuses import bad_request
from trellis.server.clusters.kuberay.resources import Object, name_of


class Logs:
    """By pod and container: the file that it prints to."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], Path] = {}

    def has_begun(self, pod: Object, query: Mapping[str, str]) -> bool:
        """Whether the container that is asked for has printed anything. Raises StatusError 400."""
        return (pod["metadata"]["uid"], _container(pod, query)) in self.files

    def read(self, pod: Object, query: Mapping[str, str]) -> str:
        """Raises StatusError 400."""
        container = _container(pod, query)
        path = self.files.get((pod["metadata"]["uid"], container))
        if path is None or not path.exists():
            message = f'container "{container}" in pod "{name_of(pod)}" is waiting to start: ContainerCreating'
            raise bad_request(message)
        text = path.read_text(encoding="utf-8", errors="replace")
        if "tailLines" in query:
            text = "".join(text.splitlines(keepends=True)[-int(query["tailLines"]) :])
        limit = query.get("limitBytes")
        return text.encode()[: int(limit)].decode(errors="ignore") if limit else text


def _container(pod: Object, query: Mapping[str, str]) -> str:
    names = [str(container["name"]) for container in pod["spec"]["containers"]]
    container = query.get("container") or names[0]
    if container not in names:
        raise bad_request(f"container {container} is not valid for pod {name_of(pod)}")
    return container
