"""Which chunks a batch is cut into, and which of all jobs' chunks share a pass."""

from collections import Counter
from collections.abc import Iterator

import torch
from hypothesis import given, settings, strategies as st

from trellis_jobs.examples import Row
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.packer import Turns, cut, fill
from trellis_jobs.shared.work import Compute, Lane, Piece, Request, Slice


def piece(tokens: int) -> Piece:
    row = Row(torch.zeros(tokens + 1, dtype=torch.int64), torch.ones(tokens + 1))
    return Piece(Chunk((row,), 0), lambda _: (None, None))


def lane_of(*requests: Request, weight: float = 1.0) -> Lane:
    def script() -> Iterator[Request]:
        yield from requests

    lane = Lane(script(), weight)  # type: ignore[arg-type]
    lane.start()
    return lane


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 100), st.integers(1, 5))
def test_a_cut_keeps_order_and_stays_within_its_tokens(lengths: list[int], tokens: int, parts: int) -> None:
    items = list(range(len(lengths)))
    runs = list(cut(items, lengths.__getitem__, tokens, parts))
    assert [item for run in runs for item in run] == items
    assert all(len(run) == 1 or sum(lengths[item] for item in run) <= tokens for run in runs)
    assert len(runs) >= min(parts, len(items)) or all(len(run) <= -(-len(items) // parts) for run in runs)


def test_a_pass_takes_what_fits_from_whom_had_least() -> None:
    busy = lane_of(Compute([piece(40) for _ in range(9)], gradient=True))
    small = lane_of(Compute([piece(10), piece(10)], gradient=True))
    asking = lane_of(Compute([piece(10)], gradient=False))
    busy.served = 5
    made = fill(small, [busy, small, asking], 100)
    assert made.gradient
    assert [lane for lane, _ in made.pieces] == [small, busy, small, busy]
    assert made.tokens == 100
    assert [chosen for lane, chosen in made.pieces if lane is busy] == list(busy.request.pieces[:2])  # type: ignore[union-attr]


def test_one_piece_always_goes_however_large() -> None:
    large = lane_of(Compute([piece(500), piece(1)], gradient=True))
    assert fill(large, [large], 100).tokens == 500


def test_a_piece_that_does_not_fit_holds_up_the_ones_behind_it() -> None:
    first, second = lane_of(Compute([piece(60)])), lane_of(Compute([piece(50), piece(1)]))
    second.served = 1
    assert [lane for lane, _ in fill(first, [first, second], 100).pieces] == [first]


def test_the_one_that_had_least_is_next() -> None:
    first, second = lane_of(Compute([piece(1)])), lane_of(Slice(lambda: None))
    ended = lane_of()
    first.charge(10)
    turns = Turns()
    assert turns.pick([first, second, ended]) is second
    second.charge(11)
    assert turns.pick([first, second, ended]) is first
    assert turns.pick([ended]) is None


def test_who_comes_is_neither_owed_a_past_nor_has_one() -> None:
    old, waiting = (lane_of(Compute([piece(1)])) for _ in range(2))
    old.charge(1000)
    waiting.charge(900)
    turns = Turns()
    assert turns.pick([old]) is old
    new = lane_of(Compute([piece(1)]))
    turns.join(new)
    turns.join(waiting)
    turns.join(old)
    assert new.served == waiting.served == old.served == 1000


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.integers(60, 200))
def test_nobody_gets_less_than_an_even_share_of_what_all_could_have_used(sizes: list[int], budget: int) -> None:
    passes = 10
    lanes = [lane_of(Compute([piece(size)] * (passes * budget // size + 1), gradient=True)) for size in sizes]
    had: Counter[int] = Counter()
    turns = Turns()
    for _ in range(passes):
        first = turns.pick(lanes)
        assert first is not None
        for lane, done in fill(first, lanes, budget).pieces:
            assert isinstance(lane.request, Compute)
            lane.request.found.append(None)
            lane.charge(done.chunk.tokens)
            had[lanes.index(lane)] += done.chunk.tokens
    # Of each pass, all but what is less than the largest piece goes to whoever had least; the rest to whoever fits.
    even = passes * (budget - max(sizes)) / len(sizes)
    assert min(had[number] for number in range(len(lanes))) >= even - max(sizes)


def test_a_lane_with_less_weight_is_charged_more() -> None:
    aside = lane_of(Compute([piece(1)]), weight=0.25)
    aside.charge(10)
    assert aside.served == 40
