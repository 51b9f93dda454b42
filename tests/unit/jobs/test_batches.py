"""Schedules, the order of lines, and how a batch is split."""

from collections.abc import Callable

import pytest

from trellis.spec import TrainSpec
from trellis.tokens import EncodedExample
from trellis_jobs.batches import Plan, collate
from trellis_jobs.examples import Examples
from trellis_jobs.schedule import learning_rate

MakeSpec = Callable[..., TrainSpec]


def examples(lengths: list[int]) -> Examples:
    found = Examples()
    for line, length in enumerate(lengths):
        ids = list(range(1, length + 1))
        found.add(line, EncodedExample(ids, [0.0] + [1.0] * (length - 1), False, length))
    return found


def test_the_learning_rate_rises_and_falls(make_spec: MakeSpec) -> None:
    def rates(schedule: str) -> list[float]:
        spec = make_spec(schedule=schedule, warmup_ratio=0.25, learning_rate=1.0)
        return [learning_rate(spec, step, 8) for step in range(8)]

    assert rates("constant") == [0.5, 1, 1, 1, 1, 1, 1, 1]
    assert rates("linear") == pytest.approx([0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert rates("cosine")[5] == pytest.approx(0.5)
    assert 0 < rates("cosine")[-1] < 0.1


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_bounds_of_warm_up(make_spec: MakeSpec, ratio: float) -> None:
    spec = make_spec(warmup_ratio=ratio, learning_rate=1.0)
    rates = [learning_rate(spec, step, 4) for step in range(4)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0]) if ratio else rates[0] == 1.0


def test_each_epoch_sees_every_line_once_in_an_order_of_its_own(make_spec: MakeSpec) -> None:
    plan = Plan.of(make_spec(epochs=3, batch_size=4), 10)
    assert (plan.epoch_steps, plan.total_steps) == (3, 9)
    epochs = [[item for step in range(3) for item in plan.batch(3 * epoch + step)] for epoch in range(3)]
    assert all(sorted(items) == list(range(10)) for items in epochs)
    assert len({tuple(items) for items in epochs}) == 3
    assert [len(plan.batch(step)) for step in range(4)] == [4, 4, 2, 4]
    assert Plan.of(make_spec(epochs=3, batch_size=4, seed=1), 10).batch(0) != plan.batch(0)


def test_max_steps_stops_early_only(make_spec: MakeSpec) -> None:
    assert Plan.of(make_spec(epochs=3, batch_size=4, max_steps=2), 10).total_steps == 2
    assert Plan.of(make_spec(epochs=3, batch_size=4, max_steps=99), 10).total_steps == 9


def test_a_batch_is_padded_on_the_right_and_shifted() -> None:
    batch = collate([examples([4, 2]).row(0), examples([4, 2]).row(1)], 9)
    assert batch.inputs_BT.tolist() == [[1, 2, 3], [1, 2, 9]]
    assert batch.targets_BT.tolist() == [[2, 3, 4], [2, 9, 9]]
    assert batch.weights_BT.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_examples_end_with_their_last_trained_token() -> None:
    held = Examples()
    held.add(7, EncodedExample([5, 6, 7, 8, 9, 10], [0, 1, 0, 0.5, 0.5, 0], True, 99))
    assert held.ids(0) == [5, 6, 7, 8, 9]
    assert held.answer_start(0) == 3
    assert held.row(0).weights_T.tolist() == [0, 1, 0, 0.5, 0.5]
    assert (list(held.lines), held.whole) == ([7], [False])


def test_a_share_of_each_batch_is_replayed_and_epochs_count_training_lines(make_spec: MakeSpec) -> None:
    plan = Plan.of(make_spec(epochs=3, batch_size=8, replay_fraction=0.25), 20, 5)
    assert (plan.replay_size, plan.epoch_steps, plan.total_steps) == (2, 4, 12)
    batches = [plan.batch(step) for step in range(plan.total_steps)]
    assert [len(batch) for batch in batches] == [8, 8, 8, 3] * 3  # the last has two training lines and one replayed
    for epoch in range(3):
        fresh = [item for batch in batches[4 * epoch : 4 * epoch + 4] for item in batch if item < 20]
        assert sorted(fresh) == list(range(20))
    replayed = [item for batch in batches[:2] for item in batch if item >= 20]
    assert len(set(replayed)) == 4
    assert set(replayed) <= set(range(20, 25))
    assert {item for batch in batches for item in batch} == set(range(25))


def test_a_batch_depends_on_nothing_but_seed_and_step(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=3, batch_size=8, replay_fraction=0.3)
    plan = Plan.of(spec, 20, 5)
    forwards = [plan.batch(step) for step in range(plan.total_steps)]
    assert [Plan.of(spec, 20, 5).batch(step) for step in range(plan.total_steps)] == forwards
    assert [plan.batch(step) for step in reversed(range(plan.total_steps))] == forwards[::-1]
    assert Plan.of(make_spec(epochs=3, batch_size=8, replay_fraction=0.3, seed=1), 20, 5).batch(0) != forwards[0]


def test_one_line_at_least_is_replayed_and_one_at_least_is_not(make_spec: MakeSpec) -> None:
    assert Plan.of(make_spec(batch_size=8, replay_fraction=0.01), 20, 5).replay_size == 1
    assert Plan.of(make_spec(batch_size=2, replay_fraction=0.9), 20, 5).replay_size == 1
    assert Plan.of(make_spec(batch_size=8, replay_fraction=0.5), 20).replay_size == 0
    assert Plan.of(make_spec(batch_size=8, replay_fraction=0.0), 20, 5).replay_size == 0
