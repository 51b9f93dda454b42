"""Quantities and money for people: exact, in the units that prices are for."""

from decimal import Decimal

from trellis.client.types import UsageMeter

_NANOS = 10**9
_SHOWN = {
    UsageMeter.ACCELERATOR_MILLISECONDS: ("accelerator hours", 3_600_000),
    UsageMeter.TRAINED_TOKENS: ("trained tokens", 1),
    UsageMeter.PROMPT_TOKENS: ("prompt tokens", 1),
    UsageMeter.COMPLETION_TOKENS: ("completion tokens", 1),
    UsageMeter.DATASET_BYTE_HOURS: ("dataset gigabyte hours", 10**9),
    UsageMeter.ARTIFACT_BYTE_HOURS: ("artifact gigabyte hours", 10**9),
}


def what(meter: UsageMeter) -> str:
    """What is counted, such as `accelerator hours`."""
    return _SHOWN.get(meter, (meter.value.lower().replace("_", " "), 1))[0]


def quantity(meter: UsageMeter, count: int) -> str:
    """So much of it."""
    units = _SHOWN.get(meter, ("", 1))[1]
    return f"{count:,}" if units == 1 else f"{Decimal(count) / units:,.6f}"


def money(nanos: int, currency: str) -> str:
    """An amount, such as `1.80 EUR`: at least two digits after the point, and no digit left out."""
    if not currency:
        return "-"
    whole, rest = divmod(abs(nanos), _NANOS)
    digits = f"{rest:09}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole:,}.{digits} {currency}"


def price(nanos: int, units: int, currency: str) -> str:
    """A price, such as `1.80 EUR / 3,600,000`."""
    return "-" if not currency or not nanos else f"{money(nanos, currency)} / {units:,}"
