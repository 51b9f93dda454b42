"""Token buckets never give more than the rate and a minute's worth, whoever asks, whatever their clocks say."""

from dataclasses import dataclass

import pytest
from hypothesis import given, strategies as st

from trellis.server.domain.rate import Bucket, RateKind, take

REQUESTS, TOKENS = RateKind.REQUESTS, RateKind.TOKENS


@dataclass(frozen=True)
class Ask:
    """One asks for something, some time after the one before."""

    after: float
    skew: float
    """By how much the clock of its server is ahead."""
    amount: float
    patience: float


ASKS = st.lists(
    st.builds(
        Ask,
        after=st.sampled_from([0.0, 0.0, 1.0, 60.0]) | st.floats(0, 5),
        skew=st.sampled_from([0.0, 0.0, 2.5]),
        amount=st.floats(0.5, 20) | st.floats(20, 30),
        patience=st.sampled_from([0.0, 1.0, 5.0, 1000.0]),
    ),
    min_size=4,
    max_size=60,
)
RATES = st.integers(30, 60) | st.integers(60, 600)
"""Mostly less than is asked for, so that some wait."""


@given(ASKS, RATES)
def test_never_more_than_the_rate_and_a_minutes_worth_in_any_time(asks: list[Ask], rate: int) -> None:
    buckets = {REQUESTS: Bucket.full(rate, 0.0)}
    time, moments = 0.0, list[tuple[float, float]]()
    for ask in asks:
        time += ask.after
        taken = take(buckets, {REQUESTS: rate}, {REQUESTS: ask.amount}, time + ask.skew, ask.patience)
        assert taken.granted == (taken.wait <= ask.patience)
        if taken.granted:
            moments.append((time + taken.wait, ask.amount))
    # However far a clock is ahead, it is so once.
    most_ahead = max((ask.skew for ask in asks), default=0.0)
    moments.sort()
    for first in range(len(moments)):
        total = 0.0
        for at, amount in moments[first:]:
            total += amount
            seconds = at - moments[first][0] + most_ahead
            assert total <= rate + rate * seconds / 60 + 1e-6


@given(ASKS, RATES)
def test_they_go_in_the_order_in_which_they_asked_and_as_early_as_can_be(asks: list[Ask], rate: int) -> None:
    buckets, time, last = {REQUESTS: Bucket.full(rate, 0.0)}, 0.0, 0.0
    for ask in asks:
        time += ask.after
        before = buckets[REQUESTS].at(time, rate)
        taken = take(buckets, {REQUESTS: rate}, {REQUESTS: ask.amount}, time, ask.patience)
        # Not a moment later than the rate asks for, and told so too when it was refused.
        assert taken.wait == pytest.approx(max(0.0, (ask.amount - before.level) * 60 / rate))
        if taken.granted and taken.wait > 0:
            assert time + taken.wait >= last - 1e-6
            last = time + taken.wait
        else:
            assert taken.granted or buckets[REQUESTS] == before


def test_all_buckets_are_taken_from_or_none() -> None:
    rates = {REQUESTS: 60, TOKENS: 600}
    buckets = {REQUESTS: Bucket(60.0, 0.0), TOKENS: Bucket(10.0, 0.0)}
    refused = take(buckets, rates, {REQUESTS: 1.0, TOKENS: 40.0}, 0.0, 2.9)
    assert (refused.granted, refused.wait) == (False, 3.0)
    assert buckets == {REQUESTS: Bucket(60.0, 0.0), TOKENS: Bucket(10.0, 0.0)}
    granted = take(buckets, rates, {REQUESTS: 1.0, TOKENS: 40.0}, 0.0, 3.0)
    assert (granted.granted, granted.wait) == (True, 3.0)
    assert buckets == {REQUESTS: Bucket(59.0, 0.0), TOKENS: Bucket(-30.0, 0.0)}


@pytest.mark.parametrize(("returned", "level"), [(20.0, 50.0), (80.0, 60.0), (-10.0, 20.0)])
def test_what_was_not_used_comes_back_up_to_a_minutes_worth(returned: float, level: float) -> None:
    assert Bucket(30.0, 5.0).less(-returned).at(5.0, 60).level == level


def test_a_lower_rate_holds_at_once() -> None:
    assert Bucket(600.0, 0.0).at(1.0, 60).level == 60.0
    assert Bucket(0.0, 0.0).at(30.0, 60) == Bucket(30.0, 30.0)
    assert Bucket(7.0, 10.0).at(3.0, 60) == Bucket(7.0, 10.0), "time does not go back"
