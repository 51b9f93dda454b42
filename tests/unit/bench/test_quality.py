"""The rows of the quality benchmark."""

from tests.bench.quality import WAYS, Run, Score, Settings, _quality_rows


def run(exact: float) -> Run:
    return Run(Score(0.0, 6.0), Score(exact, 0.05), 10.0, 20.0)


def test_each_way_is_held_against_the_peer() -> None:
    found = {"shared": [run(0.95), run(0.97)], "distributed": [run(0.91), run(0.95)]}
    rows = {row.name: row for row in _quality_rows(found, [run(0.96), run(0.96)])}
    assert round(rows["difference, shared less peer (within 2)"].value, 6) == 0.0
    assert round(rows["difference, distributed less peer (NOT WITHIN 2)"].value, 6) == -3.0
    assert rows["test answers exact, tuned, seed 1, distributed"].value == 0.95
    assert rows["test loss, tuned, mean, shared"].peer_value == 0.05


def test_one_way_is_deepspeed_s_and_both_have_the_same_settings() -> None:
    distributed = WAYS["distributed"]
    assert WAYS["shared"] is None
    assert distributed is not None
    assert distributed.workers == 1
    spec = Settings(10, 3, 3e-3, 16, 1, 0.03).spec(1, 40)
    assert (spec.epochs, spec.batch_size, spec.seed, spec.max_evaluation_lines) == (3, 16, 1, 40)
