"""The simulator: what it sees adds up, and what it is for comes out: fairness by weights, no starvation, bounded loss."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from trellis.server.scheduler.decisions import Decisions
from trellis.server.scheduler.snapshot import SchedulerOptions, Snapshot
from trellis.server.scheduler.timeline import Pace
from trellis.server.simulator.__main__ import main
from trellis.server.simulator.plot import draw
from trellis.server.simulator.report import SimulationReport, quantile, report_of
from trellis.server.simulator.simulation import JobRecord, Record, Simulation, SimulationOptions
from trellis.server.simulator.synthetic import Mix, synthetic_trace
from trellis.server.simulator.table import span, table_of
from trellis.server.simulator.trace import Trace, TraceJob, TracePlatform, TraceTenant

EXACT = SimulationOptions(round=1.0, pace=Pace())
"""Nothing takes time but the jobs themselves."""


class Ticks:
    """A clock by which every decision takes two seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


def run(trace: Trace, options: SimulationOptions = EXACT) -> Record:
    return Simulation(trace, options, Ticks()).run()


def job(name: str, tenant: str = "a", submit: float = 0.0, seconds: float = 100.0, size: float = 1.0) -> TraceJob:
    return TraceJob(name, tenant, submit, seconds, size)


def trace(*jobs: TraceJob, accelerators: float = 4.0, tenants: tuple[TraceTenant, ...] = ()) -> Trace:
    names = {one.tenant for one in tenants}
    missing = {one.tenant for one in jobs} - names
    found = (*tenants, *(TraceTenant(name) for name in sorted(missing)))
    return Trace(TracePlatform(accelerators), found, tuple(sorted(jobs, key=lambda one: one.submit)))


def test_jobs_run_as_long_as_they_do_and_wait_for_those_before_them() -> None:
    record = run(trace(job("first", size=4), job("second", submit=10, size=4), job("later", submit=500, size=2)))
    assert {name: (one.starts, one.end) for name, one in record.jobs.items()} == {
        "first": ([0.0], 100.0),
        "second": ([100.0], 200.0),
        "later": ([500.0], 600.0),
    }
    report = report_of(record)
    assert (report.hours, report.unfinished, report.preemptions) == (600 / 3600, 0, 0)
    assert report.utilisation == pytest.approx((100 * 4 + 100 * 4 + 100 * 2) / (600 * 4))
    assert report.wait is not None
    assert (report.wait.max, report.longest_wait, report.longest_waiter) == (90.0, 90.0, "second")
    assert report.slowdown is not None
    assert report.slowdown.max == pytest.approx(190 / 100)
    assert report.decision is not None
    assert (report.decision.p50, report.decision.max) == (2.0, 2.0)


def test_a_job_with_priority_has_another_give_way_which_loses_what_it_did_since_its_checkpoint() -> None:
    pace = Pace(leave=10.0, checkpoint=60.0)
    options = replace(EXACT, pace=pace, policy=SchedulerOptions(least_run_seconds=0.0))
    low, high = job("low", seconds=1000, size=4), replace(job("high", "b", 100, 50, 4), priority=1)
    record = run(trace(low, high), options)
    assert record.jobs["high"].starts == [110.0]
    # It had worked for 110 seconds, of which a checkpoint kept 60; it goes on when the other has ended.
    assert record.jobs["low"].starts == [0.0, 160.0]
    assert record.jobs["low"].lost == 50.0
    assert record.jobs["low"].end == 160.0 + 1000 - 60
    report = report_of(record)
    assert (report.preemptions, report.preempted_jobs, report.most_preemptions) == (1, 1, 1)
    assert report.lost_hours == pytest.approx(50 * 4 / 3600)


def test_a_short_job_passes_a_waiting_one_without_delaying_it() -> None:
    jobs = (job("runs", size=3), job("large", submit=1, size=4), job("short", submit=2, seconds=50))
    record = run(trace(*jobs))
    assert record.jobs["short"].starts == [2.0]
    assert record.jobs["large"].starts == [100.0]
    assert [name for name, one in record.jobs.items() if one.overtook] == ["short"]
    assert report_of(record).overtakers == 1


def test_jobs_of_a_base_share_one_trainer_that_leaves_when_it_is_idle() -> None:
    jobs = tuple(TraceJob(f"s{number}", "a", 0.0, 100.0, base="tiny") for number in range(4))
    record = run(trace(*jobs, job("other", "b", submit=1000, size=4)))
    assert all(record.jobs[one.job].starts == [0.0] for one in jobs)
    assert record.samples[0].used == pytest.approx(1 / 4)
    assert record.jobs["other"].starts == [1000.0]


def test_what_never_fits_is_refused_and_nothing_waits_for_it() -> None:
    record = run(trace(job("huge", size=5), job("small")))
    assert (record.jobs["huge"].refused, record.jobs["huge"].starts) == (True, [])
    assert record.jobs["small"].end == 100.0
    assert (report_of(record).refused, report_of(record).unfinished) == (1, 0)


def test_a_tenant_that_may_have_nothing_starves_and_the_report_says_so() -> None:
    tenants = (TraceTenant("a", running_jobs=0),)
    record = run(trace(job("stuck"), job("fine", "b"), tenants=tenants), replace(EXACT, patience=10_000.0))
    report = report_of(record)
    assert report.unfinished == 1
    assert "1 JOBS NEVER ENDED" in table_of(report)


def saturated(weights: tuple[float, ...], jobs: int, size: float = 1.0) -> tuple[Trace, SimulationOptions]:
    """Everybody always has jobs that wait, of lengths that differ from tenant to tenant."""
    tenants = tuple(TraceTenant(f"t{weight:g}", weight) for weight in weights)
    made = [
        job(f"{one.tenant}-{number:03}", one.tenant, 0.0, 300.0 + 40 * (number % 7) + 100 * at, size)
        for at, one in enumerate(tenants)
        for number in range(jobs)
    ]
    policy = SchedulerOptions(half_life_seconds=3600.0)
    return trace(*made, accelerators=14.0, tenants=tenants), replace(EXACT, round=20.0, policy=policy)


@pytest.mark.parametrize("size", [1.0, 2.0])
def test_shares_converge_to_the_weights_within_five_per_cent(size: float) -> None:
    weights = (1.0, 2.0, 4.0)
    queue, options = saturated(weights, round(140 / size), size)
    had = dict.fromkeys(("t1", "t2", "t4"), 0.0)
    seen: list[tuple[float, dict[str, float]]] = []

    def watch(snapshot: Snapshot, _decisions: Decisions) -> None:
        if {one.tenant for one in snapshot.queued} == had.keys():
            held = dict.fromkeys(had, 0.0)
            for one in snapshot.active:
                held[one.tenant] += one.needs.gpus
            seen.append((snapshot.now.timestamp(), held))

    Simulation(queue, options, Ticks(), watch=watch).run()
    for (start, held), (end, _) in itertools.pairwise(seen):
        for tenant, share in held.items():
            had[tenant] += share * (end - start)
    total = sum(had.values())
    assert total > 14 * 3600
    for tenant, weight in zip(had, weights, strict=True):
        assert had[tenant] / total == pytest.approx(weight / sum(weights), rel=0.05), had


def test_the_reports_fairness_error_is_what_was_had_against_what_was_due() -> None:
    queue, options = saturated((1.0, 2.0, 4.0), 60)
    fair = report_of(run(queue, options))
    assert fair.fairness_error is not None
    assert fair.fairness_error <= 0.1
    record = run(queue, options)
    for tenant, had, due in (("t1", 2.0, 1.0), ("t2", 2.0, 2.0), ("t4", 3.0, 4.0)):
        record.turnouts[tenant].had, record.turnouts[tenant].due = had, due
    unfair = report_of(record)
    assert unfair.fairness_error == pytest.approx((1 * 1 + 0 * 2 + 0.25 * 4) / 7)
    assert unfair.worst_fairness_error == pytest.approx(1.0)


@pytest.fixture(scope="module")
def crowd() -> Record:
    """Five hundred jobs of everything: quotas, cohorts, priorities, gangs, shared trainers, wrong estimates."""
    return Simulation(synthetic_trace(Mix(500, 20, 60, seed=5)), SimulationOptions(round=300.0), Ticks()).run()


def test_in_a_crowd_every_job_ends_and_runs_as_long_as_it_takes(crowd: Record) -> None:
    for record in crowd.jobs.values():
        assert record.end is not None
        assert len(record.starts) - 1 <= crowd.options.policy.max_preemptions
        assert record.starts[0] >= record.job.submit
        worked = record.end - record.starts[-1]
        assert worked <= record.job.seconds + crowd.options.pace.start + crowd.options.pace.load + 1e-6
        if len(record.starts) == 1:
            assert worked >= record.job.seconds
    assert sum(len(one.starts) > 1 for one in crowd.jobs.values()) > 0
    assert sum(one.overtook for one in crowd.jobs.values()) > 0


def test_in_a_crowd_what_is_used_is_what_jobs_and_trainers_held(crowd: Record) -> None:
    alone = sum((one.end or 0) - one.starts[-1] for one in crowd.jobs.values() if one.job.accelerators)
    assert alone > 0
    assert all(0 <= sample.used <= 1 + 1e-9 for sample in crowd.samples)
    least = sum(_ran(one) * one.job.accelerators for one in crowd.jobs.values()) / 60
    assert crowd.used_seconds >= least * 0.999


def _ran(record: JobRecord) -> float:
    return (record.end or 0.0) - record.starts[-1]


def test_the_same_seed_gives_the_same_and_another_one_another(crowd: Record) -> None:
    again = Simulation(crowd.trace, crowd.options, Ticks()).run()
    assert report_of(again) == report_of(crowd)
    assert synthetic_trace(Mix(50, 5, 10, seed=1)) == synthetic_trace(Mix(50, 5, 10, seed=1))
    assert synthetic_trace(Mix(50, 5, 10, seed=1)) != synthetic_trace(Mix(50, 5, 10, seed=2))


def test_a_report_can_be_read_and_drawn(crowd: Record) -> None:
    report = report_of(crowd)
    shown = table_of(report)
    assert shown.startswith("jobs            500 of 20 tenants on 60 accelerators\n")
    assert "starvation      none, every job has ended" in shown
    assert "and 8 more tenants" in shown
    whole = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert len(whole["by_tenant"]) == 20
    assert whole["wait"].keys() == {"p50", "p95", "p99", "max"}
    picture = draw(crowd, report)
    assert picture == draw(crowd, report)
    assert picture.count("<polyline") == 2


def test_quantiles_lie_between_neighbours() -> None:
    assert [quantile([1.0, 2.0, 4.0], part) for part in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.5, 2.0, 3.0, 4.0]
    assert quantile([3.0], 0.95) == 3.0
    assert [span(one) for one in (0.4, 59, 61, 3600, 90_061)] == ["0 s", "59 s", "1 m 1 s", "1 h 0 m", "25 h 1 m"]


def test_the_program_replays_what_it_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded, picture = tmp_path / "queue.jsonl", tmp_path / "queue.svg"
    flags = ["--jobs=40", "--tenants=4", "--accelerators=8", f"--record={recorded}", f"--plot={picture}", "--progress"]
    assert main([*flags, "--format=json"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "progress 100"
    assert picture.read_text().startswith("<svg")
    assert main([f"--trace={recorded}", "--format=json"]) == 0
    first, second = (_without_clock(json.loads(one)) for one in (said.out, capsys.readouterr().out))
    assert first == second
    (tmp_path / "bad.jsonl").write_text('{"kind": "job"}\n')
    assert main([f"--trace={tmp_path / 'bad.jsonl'}"]) == 2
    assert "Line 1 is no line of a trace: it misses" in capsys.readouterr().err


def _without_clock(report: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in report.items() if name != "decision"}


def test_a_report_of_nothing_but_waiting_says_so() -> None:
    tenants = (TraceTenant("a", running_jobs=0),)
    report: SimulationReport = report_of(run(trace(job("stuck"), tenants=tenants), replace(EXACT, patience=1000.0)))
    assert (report.wait, report.slowdown, report.fairness_error) == (None, None, None)
    assert "nothing started" in table_of(report)
