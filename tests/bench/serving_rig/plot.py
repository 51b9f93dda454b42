"""The points as a picture."""

import io
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure

from tests.bench.serving_rig.finding import Point

_WIDTH: Final = 0.8
_COLOURS: Final = {
    "Trellis": "#2f6f4f",
    "vLLM-CPU": "#b5651d",
    "vLLM-CPU LoRA": "#dd9b5c",
    "PEFT mixed": "#5b7fa6",
    "PEFT switching": "#a9bdd3",
    "transformers": "#7a7a7a",
}


def draw_points(points: Sequence[Point]) -> str:
    """As SVG: tokens a second by system and number of adapters, and time to first token by requests at once."""
    if not points:
        return ""
    with mpl.rc_context({"svg.hashsalt": "trellis", "font.size": 9}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _rates(left, points)
        _waits(right, points)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


def _rates(axes: Any, points: Sequence[Point]) -> None:
    most = max(point.at_once for point in points)
    shown = [point for point in points if point.at_once == most]
    counts = sorted({point.adapters for point in shown})
    systems = list(dict.fromkeys(point.system for point in shown))
    for count in counts:
        here = [point for system in systems for point in shown if (point.system, point.adapters) == (system, count)]
        width = _WIDTH / len(systems)
        for place, point in enumerate(here):
            middle = counts.index(count) + (place - (len(here) - 1) / 2) * width
            axes.bar(middle, point.rate, width * 0.92, color=_COLOURS.get(point.system))
    for system in systems:
        axes.bar(0, 0, color=_COLOURS.get(system), label=system)
    axes.set_xticks(range(len(counts)), [str(count) if count else "base only" for count in counts])
    axes.set(xlabel="adapters", ylabel="tokens a second", title=f"{most} requests at once, mixed lengths")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _waits(axes: Any, points: Sequence[Point]) -> None:
    timed = [point for point in points if point.wait is not None]
    for system in dict.fromkeys(point.system for point in timed):
        for count in sorted({point.adapters for point in timed if point.system == system}):
            if count not in {0, 16}:
                continue
            line = [point for point in timed if (point.system, point.adapters) == (system, count)]
            style = "-" if count else "--"
            label = f"{system}, {count or 'no'} adapters"
            axes.plot(
                [p.at_once for p in line],
                [p.wait for p in line],
                style,
                marker="o",
                color=_COLOURS.get(system),
                label=label,
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="requests at once", ylabel="seconds to first token, median", title="Time to first token")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
