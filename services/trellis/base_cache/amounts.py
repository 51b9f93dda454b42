"""Bytes and seconds, for people."""

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def amount(count: float) -> str:
    """Bytes in the unit that suits them, such as `141 GiB`."""
    unit = _unit(count)
    return f"{_number(count, unit)} {_UNITS[unit]}"


def part_of(done: int, total: int) -> str:
    """Both in the unit of the whole, such as `41 of 141 GiB`."""
    unit = _unit(total)
    return f"{_number(done, unit)} of {_number(total, unit)} {_UNITS[unit]}"


def span(seconds: float) -> str:
    """A time such as `12 minutes`."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _unit(count: float) -> int:
    return next((unit for unit in range(len(_UNITS)) if count < 1024 ** (unit + 1)), len(_UNITS) - 1)


def _number(count: float, unit: int) -> str:
    value = count / 1024**unit
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
