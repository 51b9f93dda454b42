"""The tokens of a pass: halved without memory, grown again with patience."""

from trellis_jobs.shared.pass_budget import PassBudget


def passes_until_grown(budget: PassBudget, limit: int = 10_000) -> int:
    return next(count for count in range(1, limit) if budget.fitted(budget.tokens))


def test_it_grows_by_a_quarter_and_never_above_what_is_configured() -> None:
    budget = PassBudget(1000, patience=3)
    assert not any(budget.fitted(1000) for _ in range(100))
    budget.ran_out(1000)
    seen = [budget.tokens]
    while budget.tokens < 1000:
        assert passes_until_grown(budget) == 3
        seen.append(budget.tokens)
    assert seen == [500, 625, 781, 976, 1000]
    assert not any(budget.fitted(1000) for _ in range(100))
    assert budget.tokens == 1000


def test_passes_that_are_not_half_full_say_nothing() -> None:
    budget = PassBudget(1000, patience=3)
    budget.ran_out(1000)
    assert not any(budget.fitted(249) for _ in range(100))
    assert [budget.fitted(250) for _ in range(3)] == [False, False, True]


def test_a_growth_that_was_too_much_doubles_the_waiting() -> None:
    budget = PassBudget(1000, patience=3)
    waits = []
    for _ in range(4):  # memory is enough for 600 tokens
        while budget.tokens > 600:
            budget.ran_out(budget.tokens)
        while budget.tokens <= 600:
            waits.append(passes_until_grown(budget))
    assert waits[0] == 3
    assert waits == sorted(waits)
    assert sorted(set(waits)) == [3, 6, 12, 24]


def test_halvings_one_after_another_are_one_lack_of_memory() -> None:
    budget = PassBudget(1000, patience=3)
    for tokens in (1000, 500, 250):
        budget.ran_out(tokens)
    assert budget.tokens == 125
    assert passes_until_grown(budget) == 3


def test_the_waiting_has_an_end_and_a_budget_of_one_grows_too() -> None:
    budget = PassBudget(2)
    waits = []
    for _ in range(20):
        budget.ran_out(budget.tokens)
        assert budget.tokens == 1
        waits.append(passes_until_grown(budget))
        assert budget.tokens == 2
    assert (waits[0], waits[-1]) == (64, 64 * 64)
