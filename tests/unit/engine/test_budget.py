from __future__ import annotations

from hypothesis import given, strategies as st

from trellis.engine.budget import Demand, fair_shares

DEMANDS = st.dictionaries(
    st.integers(), st.builds(Demand, st.integers(0, 300), st.sampled_from([0.5, 1.0, 2.0, 5.0])), max_size=6
)


def test_what_one_leaves_goes_to_the_others_by_weight() -> None:
    demands = {"a": Demand(10), "b": Demand(1000), "c": Demand(1000, 2.0)}
    assert fair_shares(100, demands) == {"a": 10, "b": 30, "c": 60}


@given(budget=st.integers(0, 600), demands=DEMANDS)
def test_nothing_is_lost_and_none_gets_more_than_it_wants(budget: int, demands: dict[int, Demand]) -> None:
    shares = fair_shares(budget, demands)
    assert shares.keys() == demands.keys()
    assert sum(shares.values()) == min(budget, sum(demand.tokens for demand in demands.values()))
    assert all(0 <= shares[key] <= demand.tokens for key, demand in demands.items())


@given(budget=st.integers(0, 600), demands=DEMANDS)
def test_who_does_not_get_all_gets_no_less_than_another_for_its_weight(budget: int, demands: dict[int, Demand]) -> None:
    shares = fair_shares(budget, demands)
    for key, demand in demands.items():
        if shares[key] == demand.tokens:
            continue
        for other, others in demands.items():
            assert (shares[key] + 1) / demand.weight > (shares[other] - 1) / others.weight
