"""Curves in the terminal, in the dots of braille letters: two by four to a cell."""

import itertools
from collections.abc import Mapping, Sequence

import click

Points = Sequence[tuple[float, float]]
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_COLOURS = ("green", "yellow", "cyan", "magenta", "blue")


def plot(curves: Mapping[str, Points], *, width: int = 72, height: int = 14) -> str:
    """Draw curves over one pair of axes; width and height in cells."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return "Nothing was measured yet."
    axes = _Axes(points, width, height)
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for (_, curve), colour in zip(curves.items(), _COLOURS * len(curves), strict=False):
        for column, row in _joined([axes.dot(point) for point in curve]):
            bits, _ = cells.get((column // 2, row // 4), (0, ""))
            cells[column // 2, row // 4] = (bits | _DOTS[row % 4][column % 2], colour)
    lines = [axes.label(row) + " │" + _row(cells, row, width) for row in range(height)]
    legend = "   ".join(
        click.style(f"⠒ {name}", fg=colour) for name, colour in zip(curves, _COLOURS * len(curves), strict=False)
    )
    return "\n".join([*lines, axes.foot(), f"{'':>10}{legend}"])


def _row(cells: Mapping[tuple[int, int], tuple[int, str]], row: int, width: int) -> str:
    drawn = (cells.get((column, row)) for column in range(width))
    return "".join(click.style(chr(0x2800 + one[0]), fg=one[1]) if one else " " for one in drawn).rstrip()


class _Axes:
    """From values to dots."""

    def __init__(self, points: Points, width: int, height: int) -> None:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self._left, self._right = min(xs), max(xs)
        self._low, self._high = min(ys), max(ys)
        self._width, self._height = width, height

    def dot(self, point: tuple[float, float]) -> tuple[int, int]:
        """The column and row of a value, from the upper left."""
        x = (point[0] - self._left) / ((self._right - self._left) or 1.0)
        y = (point[1] - self._low) / ((self._high - self._low) or 1.0)
        return round(x * (2 * self._width - 1)), round((1 - y) * (4 * self._height - 1))

    def label(self, row: int) -> str:
        """What stands left of a row."""
        if row == 0:
            return f"{self._high:8.4g}"
        return f"{self._low:8.4g}" if row == self._height - 1 else " " * 8

    def foot(self) -> str:
        """The axis below, with its ends."""
        left, right = f"{self._left:g}", f"{self._right:g}"
        gap = " " * max(1, self._width - len(left) - len(right))
        return f"{'':>9}└{'─' * self._width}\n{'':>10}{left}{gap}{right}  step"


def _joined(dots: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """The dots and those on the straight lines between them."""
    found = list(dots[:1])
    for (x0, y0), (x1, y1) in itertools.pairwise(dots):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        found += [(x0 + round((x1 - x0) * i / steps), y0 + round((y1 - y0) * i / steps)) for i in range(1, steps + 1)]
    return found
