"""A dashboard: rows of panels, and the variables that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploy.observability.panel import SOURCE, Panel

_COLUMNS: Final = 24


@dataclass(frozen=True, slots=True)
class Board:
    """One page of Grafana."""

    name: str
    """Of its file, and of its place in the others' links."""
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[Panel]]]

    def to_json(self) -> dict[str, Any]:
        return {
            "uid": f"trellis-{self.name}",
            "title": f"Trellis: {self.title}",
            "description": self.description,
            "tags": ["trellis"],
            "schemaVersion": 39,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "",
            "links": [_LINK],
            "templating": {"list": [_DATASOURCE, _NAMESPACE]},
            "annotations": {"list": []},
            "panels": self._panels(),
        }

    def _panels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        y = 0
        for title, panels in self.rows:
            place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
            row = {
                "id": len(found) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
            found.append(row)
            x, y, tallest = 0, y + 1, 0
            for panel in panels:
                if x + panel.width > _COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                found.append(panel.to_json(len(found) + 1, x, y))
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest
        return found


_LINK: Final = {
    "type": "dashboards", "title": "Trellis", "tags": ["trellis"], "asDropdown": True, "includeVars": True, "keepTime": True
}  # fmt: skip
_DATASOURCE: Final = {
    "name": "datasource", "type": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}, "hide": 0
}  # fmt: skip
_NAMESPACE: Final = {
    "name": "namespace",
    "type": "query",
    "label": "Namespace",
    "datasource": SOURCE,
    "query": {"query": "label_values(trellis_jobs, namespace)", "refId": "namespaces"},
    "refresh": 2,
    "includeAll": True,
    "multi": True,
    "current": {"text": "All", "value": "$__all"},
    "hide": 0,
}
