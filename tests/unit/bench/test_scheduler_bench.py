"""The scheduler's benchmark measures what it says it does."""

import json

from tests.bench.scheduler import first_come, measure, queue_of

from trellis.server.scheduler.policy import decide


def test_the_queue_is_as_long_as_it_says_and_the_platform_full() -> None:
    snapshot = queue_of(40, 6, 10)
    assert len(snapshot.queued) == 40
    held = sum(job.needs.gpus for job in snapshot.active) + sum(one.needs.gpus for one in snapshot.trainers)
    assert held >= 0.8 * snapshot.capacity.gpus
    decisions = decide(snapshot)
    assert len(decisions.admit) + len(decisions.waiting) + len(decisions.refuse) == 40
    assert set(first_come(snapshot)) <= {job.uid for job in snapshot.queued}


def test_a_quick_run_has_a_row_and_a_peer_for_everything() -> None:
    sheet = json.loads(measure((10,), 1, quick=True).to_json())
    assert [row["name"].partition(",")[0] for row in sheet["rows"]] == [
        "decide",
        "plan without reasons",
        "predict every start",
        "explain the last job",
    ]
    assert all(row["value"] > 0 and row["peer"] and row["unit"] == "ms" for row in sheet["rows"])
