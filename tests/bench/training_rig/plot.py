"""The points as a picture."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure

_COLOURS: Final = {
    "Trellis, warm trainer": "#2f6f4f",
    "Trellis, cold trainer": "#8fbfa5",
    "Trellis, shared step": "#2f6f4f",
    "PEFT, one after another": "#5b7fa6",
    "Trainer, a process a tenant": "#5b7fa6",
    "Trainer, one warm process": "#a9bdd3",
    "TRL, a process a tenant": "#b5651d",
}
_STYLES: Final = ("-", "--", ":")


def draw(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """As SVG: the shared step's tokens a second by tenants, and seconds from submit to ready; empty without points."""
    steps = _of(parts, "steps", "tok/s")
    ready = [*_of(parts, "ready", "s"), *_of(parts, "grid", "s")]
    panels = [(points, *titles) for points, *titles in _panels(steps, ready) if points]
    if not panels:
        return ""
    with mpl.rc_context({"svg.hashsalt": "trellis", "font.size": 9}):
        figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
        for axes, (points, title, unit) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _lines(axes, points)
            axes.set(xlabel="tenants", ylabel=unit, title=title)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


def _panels(steps: Sequence[Any], ready: Sequence[Any]) -> list[tuple[Any, str, str]]:
    return [
        (steps, "One step of all tenants, by tokens of each", "tokens a second"),
        (ready, "Submit → adapters ready", "seconds"),
    ]


def _of(parts: Mapping[str, Mapping[str, Any]], part: str, unit: str) -> list[Mapping[str, Any]]:
    points = parts.get(part, {}).get("points", [])
    return [point for point in points if point["unit"] == unit and point["mix"] == "same"]


def _lines(axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
    lengths = list(dict.fromkeys(point["length"] for point in points))
    for system in dict.fromkeys(point["system"] for point in points):
        for length in lengths:
            line = sorted(
                (point["tenants"], point["value"])
                for point in points
                if (point["system"], point["length"]) == (system, length)
            )
            style = _STYLES[lengths.index(length) % len(_STYLES)]
            label = f"{system}, {length}"
            if line:
                tenants, values = zip(*line, strict=True)
                axes.plot(tenants, values, style, marker="o", color=_COLOURS.get(system), label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
