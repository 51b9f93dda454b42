import random

import pytest
from hypothesis import given, strategies as st

from trellis.formats import (
    ChatExample,
    CompletionExample,
    DigestSet,
    Example,
    HeldOut,
    Message,
    PreferenceExample,
    TextExample,
    choose_held_out,
    example_digest,
)

digests = st.lists(st.integers(0, 2**64 - 1), max_size=60)


def held(split: HeldOut, of: list[int]) -> set[int]:
    return {digest for digest in of if split.holds(digest)}


@given(digests, st.floats(0, 0.99), st.integers())
def test_the_split_has_the_size_that_was_asked_for(of: list[int], fraction: float, seed: int) -> None:
    split = choose_held_out(of, fraction, seed)
    distinct = {digest or 1 for digest in of}
    expected = 0
    if fraction > 0 and len(distinct) > 1:
        expected = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
    assert len({digest or 1 for digest in held(split, of)}) == expected


@given(digests, st.randoms())
def test_neither_order_nor_duplicates_matter(of: list[int], shuffler: random.Random) -> None:
    again = [*of, *of[: len(of) // 2]]
    shuffler.shuffle(again)
    assert choose_held_out(again, 0.3, 5) == choose_held_out(of, 0.3, 5)


def test_another_seed_holds_out_others() -> None:
    of = [random.Random(i).getrandbits(64) for i in range(1000)]
    first, second = (held(choose_held_out(of, 0.1, seed), of) for seed in (0, 1))
    assert len(first) == len(second) == 100
    assert len(first & second) < 40


def test_a_larger_fraction_holds_out_more_of_the_same() -> None:
    of = [random.Random(i).getrandbits(64) for i in range(500)]
    assert held(choose_held_out(of, 0.1, 0), of) < held(choose_held_out(of, 0.2, 0), of)


def test_the_rule_never_changes() -> None:
    of = [example_digest(TextExample(str(number))) for number in range(20)]
    assert of[0] == 1007220183395393035
    assert [index for index, digest in enumerate(of) if choose_held_out(of, 0.2, 7).holds(digest)] == [2, 3, 6, 17]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        choose_held_out([], fraction, 0)


def test_weights_do_not_make_another_example() -> None:
    light = ChatExample((Message("user", "a"), Message("assistant", "b", weight=1)), weight=0.5)
    heavy = ChatExample((Message("user", "a"), Message("assistant", "b")), weight=2)
    assert example_digest(light) == example_digest(heavy)


def test_what_differs_has_another_digest() -> None:
    user, one, two = Message("user", "a"), Message("assistant", "b"), Message("assistant", "c")
    examples: list[Example] = [
        ChatExample((user, one)),
        ChatExample((user, two)),
        ChatExample((user, one), ({"name": "f"},)),
        PreferenceExample((user,), None, one, two),
        PreferenceExample((user,), None, two, one),
        CompletionExample("a", "b"),
        CompletionExample("ab", ""),
        TextExample("ab"),
    ]
    assert len({example_digest(example) for example in examples}) == len(examples)


@given(st.lists(st.integers(1, 50) | st.integers(1, 2**64 - 1), max_size=3000))
def test_a_set_of_digests_is_a_set(values: list[int]) -> None:
    ours, theirs = DigestSet(), set()
    for value in values:
        assert ours.add(value) is (value not in theirs)
        theirs.add(value)
    assert len(ours) == len(theirs)
    assert set(ours) == theirs
