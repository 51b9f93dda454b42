"""The mixes as a picture."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure

from tests.bench.gpu_rig.parts import Paired


def draw_shares(found: Sequence[Paired], allowed: Mapping[str, float]) -> str:
    """As SVG: each mix's share of the base's speed, and beside it what memory allows."""
    with mpl.rc_context({"svg.hashsalt": "trellis", "font.size": 9}):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        names = [pair.name.removesuffix("_over_base") for pair in found]
        axes.bar([at - 0.2 for at in range(len(found))], [pair.share for pair in found], 0.38, color="#2f6f4f")
        limits = [allowed.get(name, 0.0) for name in names]
        axes.bar([at + 0.2 for at in range(len(found))], limits, 0.38, color="#c9c9c9")
        axes.set_xticks(range(len(found)), [name.replace("_", "\n", 1) for name in names])
        axes.set(ylabel="share of the peer's tokens a second", title="Trellis (green), what memory allows (grey)")
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()
