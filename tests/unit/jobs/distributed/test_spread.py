"""Which items each worker computes."""

from hypothesis import given, strategies as st

from trellis.tokens import EncodedExample
from trellis_jobs.distributed.spread import spread
from trellis_jobs.methods.items import EncodedItem, SequenceItems


def items_of(lengths: list[int], width: int = 1) -> SequenceItems:
    items = SequenceItems(width)
    for line, length in enumerate(lengths, start=1):
        sequence = EncodedExample(
            ids=[1] * length, weights=[0.0] + [1.0] * (length - 1), cut=False, total_tokens=length
        )
        items.add(line, EncodedItem((sequence,) * width, 1.0))
    return items


@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=40),
    workers=st.integers(1, 6),
    parts=st.integers(1, 4),
    tokens=st.integers(1, 200),
)
def test_every_item_is_computed_once_within_the_limits(
    lengths: list[int], workers: int, parts: int, tokens: int
) -> None:
    items, batch = items_of(lengths), list(range(len(lengths)))
    shares = spread(batch, items, workers, parts, tokens)
    computed = [index for share in shares for group in share.groups for index in group]
    assert sorted(computed) == batch
    assert len({len(share.groups) for share in shares}) == 1  # every pass is a collective of all workers
    for share in shares:
        count = sum(map(len, share.groups))
        assert count <= -(-len(lengths) // workers)
        assert len([group for group in share.groups if group]) >= min(parts, count)
        for group in share.groups:
            assert len(group) <= 1 or len(group) * max(lengths[index] for index in group) <= tokens


def test_tokens_are_dealt_evenly() -> None:
    shares = spread(range(8), items_of([40, 10, 10, 10, 40, 10, 10, 10]), 2, 1, 10_000)
    assert [sum([40, 10, 10, 10, 40, 10, 10, 10][i] for group in s.groups for i in group) for s in shares] == [70, 70]


def test_a_worker_without_items_has_as_many_empty_passes() -> None:
    shares = spread([0], items_of([5]), 3, 1, 100)
    assert [share.groups for share in shares] == [((0,),), ((),), ((),)]


def test_the_sequences_of_a_pair_count_together() -> None:
    shares = spread([0, 1], items_of([20, 20], width=2), 1, 1, 79)
    assert shares[0].groups == ((0,), (1,))
    assert spread([0, 1], items_of([20, 20], width=2), 1, 1, 80)[0].groups == ((0, 1),)
