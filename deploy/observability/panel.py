"""A panel of a dashboard, as Grafana has it (10 and later)."""

from dataclasses import dataclass
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
HERE: Final = 'namespace=~"$namespace"'
"""In every query: what belongs to the installation that the dashboard shows."""


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn, and what it says to whom does not know the metric."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """PromQL, with HERE written as `HERE`, and the legend of its series."""
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    most: float | None = None
    """The top of the axis."""
    red_from: float | None = None
    """Where the colour says that something is wrong."""

    def to_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [self._target(index, *query) for index, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
        }

    def _target(self, index: int, expr: str, legend: str) -> dict[str, Any]:
        return {
            "refId": chr(ord("A") + index),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expr.replace("HERE", HERE),
            "legendFormat": legend,
            "instant": self.kind == "stat",
            "range": self.kind != "stat",
        }

    def _defaults(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if self.red_from is not None:
            steps.append({"color": "red", "value": self.red_from})
        defaults: dict[str, Any] = {"unit": self.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
        if self.most is not None:
            defaults["max"] = self.most
        if self.kind == "timeseries":
            stacking = {"mode": "normal" if self.stacked else "none", "group": "A"}
            defaults["custom"] = {"fillOpacity": 30 if self.stacked else 5, "lineWidth": 1, "stacking": stacking}
        return defaults

    def _options(self) -> dict[str, Any]:
        if self.kind == "stat":
            values = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"reduceOptions": values, "colorMode": "value", "graphMode": "none", "textMode": "auto"}
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def stat(title: str, description: str, unit: str, expr: str, red_from: float | None = None) -> Panel:
    """One number of now."""
    return Panel(title, description, unit, ((expr, ""),), "stat", 4, 4, red_from=red_from)


def quantiles(title: str, description: str, histogram: str, labels: str = "", *, unit: str = "s") -> Panel:
    """Half, nine tenths, and 99 of a hundred."""
    inner = f"sum by (le) (rate({histogram}_bucket{{HERE{labels}}}[5m]))"
    queries = tuple((f"histogram_quantile({q}, {inner})", f"{100 * q:g} %") for q in (0.5, 0.9, 0.99))
    return Panel(title, description, unit, queries)
