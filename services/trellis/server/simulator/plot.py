"""A simulation as a picture: how full the platform was, how many jobs waited, and what tenants had of what they were due."""

from collections.abc import Sequence
from html import escape

from trellis.server.simulator.report import SimulationReport
from trellis.server.simulator.simulation import Record

_WIDTH, _HEIGHT, _LEFT, _TOP = 720, 150, 64, 36
_PANEL = _TOP + _HEIGHT + 34
_GREEN, _BLUE, _GREY = "#2f6f4f", "#5b7fa6", "#999999"
_POINTS = 720
_BARS = 60

Points = Sequence[tuple[float, float]]


def draw(record: Record, report: SimulationReport) -> str:
    """As SVG, three panels under each other; the same record gives the same bytes."""
    hours = [sample.at / 3600 for sample in record.samples]
    used = list(zip(hours, (100 * sample.used for sample in record.samples), strict=True))
    waiting = list(zip(hours, (float(sample.waiting) for sample in record.samples), strict=True))
    ratios = [one.share_over_due for one in report.by_tenant if one.share_over_due is not None]
    panels = [
        _curve("Accelerators in use, per cent, by hours", used, 100.0, _GREEN),
        _curve("Jobs that wait, by hours", waiting, None, _BLUE),
        _bars("Share of each tenant that waited, over what its weight is due (line: 1)", sorted(ratios), _GREEN),
    ]
    body = "\n".join(
        f'<g transform="translate({_LEFT},{number * _PANEL + _TOP})">{panel}</g>' for number, panel in enumerate(panels)
    )
    size = f'width="{_WIDTH + _LEFT + 24}" height="{len(panels) * _PANEL + 8}"'
    style = 'font-family="sans-serif" font-size="11" fill="#333333"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'


def _curve(title: str, points: Points, top: float | None, colour: str) -> str:
    if not points:
        return _frame(title, "no decision was made", "", "")
    highest = top or max(y for _, y in points) or 1.0
    right = points[-1][0] or 1.0
    thin = points[:: max(1, len(points) // _POINTS)]
    path = " ".join(f"{x / right * _WIDTH:.1f},{_HEIGHT - min(1.0, y / highest) * _HEIGHT:.1f}" for x, y in thin)
    line = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>'
    return _frame(title, line, f"{highest:g}", f"{right:.1f}")


def _bars(title: str, values: Sequence[float], colour: str) -> str:
    """Many values are thinned to evenly spaced ones of the sorted row, the least and the greatest among them."""
    if not values:
        return _frame(title, "", "", "")
    count = min(_BARS, len(values))
    shown = [values[round(at * (len(values) - 1) / max(1, count - 1))] for at in range(count)]
    highest = max(2.0, *shown)
    wide = _WIDTH / count
    bars = [
        f'<rect x="{at * wide:.1f}" y="{_HEIGHT * (1 - value / highest):.1f}" width="{wide * 0.8:.1f}" '
        f'height="{_HEIGHT * value / highest:.1f}" fill="{colour}"/>'
        for at, value in enumerate(shown)
    ]
    y = _HEIGHT * (1 - 1 / highest)
    due = f'<line x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GREY}" stroke-dasharray="4 3"/>'
    return _frame(title, "".join([*bars, due]), f"{highest:.2g}", f"{len(values)} tenants")


def _frame(title: str, inside: str, highest: str, right: str) -> str:
    axes = f'<path d="M0 0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="{_GREY}"/>'
    labels = [
        f'<text x="0" y="-10" font-size="13">{escape(title)}</text>',
        f'<text x="-6" y="8" text-anchor="end">{highest}</text><text x="-6" y="{_HEIGHT}" text-anchor="end">0</text>',
        f'<text x="{_WIDTH}" y="{_HEIGHT + 15}" text-anchor="end">{right}</text>',
    ]
    inner = inside if inside.startswith("<") or not inside else f'<text x="8" y="20">{escape(inside)}</text>'
    return axes + inner + "".join(labels)
