"""Amounts, and what a statement is hashed over."""

from datetime import datetime, timedelta, timezone
from fractions import Fraction

from hypothesis import given, strategies as st

from trellis.statements import amount_nanos, entry_line

HOUR = 3_600_000


def test_amounts_are_rounded_once() -> None:
    assert amount_nanos(HOUR, 2_000_000_000, HOUR) == 2_000_000_000
    assert amount_nanos(1, 1_800_000, HOUR) == 0, "half a billionth goes to the even neighbour"
    assert amount_nanos(3, 1_800_000, HOUR) == 2
    assert amount_nanos(1, 1_800_001, HOUR) == 1
    assert amount_nanos(720 * 10**13, 27_778, 10**9) == 720 * 10**4 * 27_778


@given(st.integers(0, 2**62), st.integers(0, 2**62), st.sampled_from([1, 10**6, HOUR, 10**9]))
def test_amounts_are_what_fractions_say(quantity: int, price: int, units: int) -> None:
    assert amount_nanos(quantity, price, units) == round(Fraction(quantity * price, units))


def test_an_entrys_line_does_not_depend_on_the_zone() -> None:
    time = datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    line = entry_line(
        7, time, "tenants/a", "SETTLE", "PROMPT_TOKENS", 5, 2, "", "tenants/a/adapters/1", "baseModels/x", "ü"
    )
    assert line == (
        b'[7,"2026-03-01T12:00:00.000000+00:00","tenants/a","SETTLE","PROMPT_TOKENS",5,2,"","tenants/a/adapters/1",'
        b'"baseModels/x","\\u00fc"]\n'
    )
