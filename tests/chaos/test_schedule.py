"""The schedule of faults is the seed's alone, and strikes nothing that is struck already."""

from itertools import pairwise

import pytest

from tests.chaos.faults import HEAVY, KINDS
from tests.chaos.schedule import make_schedule


def test_a_seed_gives_the_same_faults_each_time_and_another_seed_others() -> None:
    assert make_schedule(1, 300.0, KINDS) == make_schedule(1, 300.0, KINDS)
    assert make_schedule(1, 300.0, KINDS) != make_schedule(2, 300.0, KINDS)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_comes_and_no_part_is_struck_while_it_is_down(seed: int) -> None:
    strikes = make_schedule(seed, 600.0, KINDS)
    assert {strike.kind for strike in strikes} == set(KINDS)
    assert all(0.0 < strike.at < 600.0 for strike in strikes)
    for part in {kind.part for kind in KINDS}:
        mine = [strike for strike in strikes if strike.kind.part == part]
        assert all(one.at + one.seconds < other.at for one, other in pairwise(mine))


@pytest.mark.parametrize("seed", range(20))
def test_deaths_come_once_each_before_any_comes_again(seed: int) -> None:
    names = [strike.kind.name for strike in make_schedule(seed, 600.0, HEAVY)]
    rounds = [names[start : start + len(HEAVY)] for start in range(0, len(names) - len(HEAVY), len(HEAVY))]
    assert all(len(set(each)) == len(HEAVY) for each in rounds)
