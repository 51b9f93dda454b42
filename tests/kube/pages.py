"""Lists in pages: what follows is as it was when the first page was read."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tests.kube.statuses import expired
from tests.kube.store import Store
from trellis.server.clusters.kuberay.resources import Object


class Pages:
    """Remembers what is left of a list, until the history is compacted."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[int, Sequence[Object]]] = {}
        self._numbers = itertools.count(1)

    def cut(
        self, found: Sequence[Object], store: Store, query: Mapping[str, str]
    ) -> tuple[list[Object], dict[str, Any]]:
        """The page, and the metadata of the list. Raises StatusError 410."""
        version = store.version
        if token := query.get("continue"):
            version, found = self._left.pop(token, (0, ()))
            if version < store.floor:
                raise expired("The provided continue parameter is too old to display a consistent list result.")
        limit = int(query.get("limit") or 0) or len(found)
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if len(found) > limit:
            token = f"page-{next(self._numbers)}"
            self._left[token] = (version, found[limit:])
            metadata.update({"continue": token, "remainingItemCount": len(found) - limit})
        return list(found[:limit]), metadata
