"""Which checkpoints are kept, whatever is committed, done again, pinned and let go, in any order."""

import math
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, strategies as st

from trellis.server.domain.retention import best_of, surplus
from trellis.server.domain.tuning_job import Checkpoint
from trellis.spec import KEPT_CHECKPOINTS

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LOSSES = st.none() | st.sampled_from([0.5, 1.0, 1.5, math.nan, math.inf])
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 5)),
        st.tuples(st.just("again"), st.integers(0, 20)),
        st.tuples(st.just("pin"), st.integers(0, 20)),
        st.tuples(st.just("unpin"), st.integers(0, 20)),
    ),
    max_size=40,
)


@given(deeds=DEEDS, losses=st.lists(LOSSES, min_size=8, max_size=8))
def test_the_newest_the_best_ever_and_pinned_ones_are_kept_and_no_others(
    deeds: list[tuple[str, int]], losses: list[float | None]
) -> None:
    kept: dict[int, Checkpoint] = {}
    ever: dict[int, float | None] = {}
    for deed, number in deeds:
        chosen = sorted(kept)[number % len(kept)] if kept else 0
        if deed == "commit":
            step = max(ever, default=0) + number
            ever[step] = losses[step % len(losses)]
            kept[step] = Checkpoint(step, 1, f"step-{step}", 9, NOW, ever[step])
        elif chosen and deed == "again":
            kept[chosen] = replace(kept[chosen], attempt=2, key=f"step-{chosen}-again")
        elif chosen:
            kept[chosen] = replace(kept[chosen], pinned=deed == "pin")
        gone = surplus(list(kept.values()))
        for one in gone:
            del kept[one.step]
        assert not any(one.pinned for one in gone)
        assert set(sorted(ever)[-KEPT_CHECKPOINTS:]) <= kept.keys()
        measured = {step: loss for step, loss in ever.items() if loss is not None and math.isfinite(loss)}
        best = min(measured, key=lambda step: (measured[step], step), default=None)
        found = best_of(kept.values())
        assert (found.step if found else None) == best, "the best of all that ever were is there"
        assert sum(not one.pinned for one in kept.values()) <= KEPT_CHECKPOINTS + 1
        assert not surplus(list(kept.values()))
