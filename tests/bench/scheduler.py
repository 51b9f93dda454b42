"""How long does one decision over the whole queue take? Beside what deciding without fairness would cost.

The queue, what runs and the trainers are those of a simulation with two hundred tenants in cohorts on a thousand
accelerators, as they are once so many jobs wait. The peer is first come, first served over the same snapshot: one sort by
priority and age, and every job that fits starts; no quotas, shares, reservations, preemption or reasons. No maintained
scheduler with quotas and fair shares can be called as a library for comparison: Kueue and Volcano decide inside Kubernetes,
Slurm inside its controller.
"""

import argparse
import datetime as dt
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tests.bench.report import Machine, Row, Sheet, output_options, versions
from trellis.server.scheduler.explain import explain
from trellis.server.scheduler.outlook import Outlook
from trellis.server.scheduler.policy import Decisions, decide, plan_of
from trellis.server.scheduler.predict import predict
from trellis.server.scheduler.snapshot import Alone, Snapshot
from trellis.server.simulator.simulation import Simulation, SimulationOptions
from trellis.server.simulator.synthetic import Mix, synthetic_trace

SIZES: Final = (100, 1_000, 10_000)
QUICK: Final = (20, 100)
FIRST_COME: Final = "first come, first served: one sort, no quotas, shares or reasons"
EXPECTED: Final = {
    "decide": "0.02 to 0.04 ms a queued job: 3 ms, 30 ms and 350 ms at 100, 1,000 and 10,000 jobs; 1 s is the bar at 10,000. "
    "The peer needs a hundredth: it is one sort, and a comparison for each job",
    "plan": "0.6 of a decision: the rest is a reason for each job that waits",
    "predict": "at most 1 s whatever the queue: its work is bounded by the number of jobs looked at",
    "explain": "a decision or two at 10,000 jobs beside the shared outlook: alternatives are decided up to the job only. At "
    "100 jobs up to three predictions, as starts that are merely sooner are looked for too",
}
"""Written before the first run on a machine that does nothing else, from trials on one that was busy."""


def main() -> None:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    output_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    sheet = measure(QUICK if given.quick else SIZES, 2 if given.quick else given.rounds, quick=given.quick)
    sheet.publish(given.json)


def measure(sizes: tuple[int, ...], rounds: int, *, quick: bool) -> Sheet:
    """A sheet with rows for each size."""
    tenants, accelerators = (10, 20) if quick else (200, 1000)
    settings = {"tenants": tenants, "accelerators": accelerators, "rounds": rounds, "each": "the median of the rounds"}
    date = dt.datetime.now(dt.UTC).date().isoformat()
    sheet = Sheet("scheduler", date, quick, Machine.this(), versions(["trellis"]), settings)
    for size in sizes:
        snapshot = queue_of(size, tenants, accelerators)
        sheet.rows.extend(rows_of(size, snapshot, rounds))
    return sheet


def rows_of(size: int, snapshot: Snapshot, rounds: int) -> list[Row]:
    """All of one queue, each measured and then its peer, round by round."""
    peer, ours = milliseconds(lambda: first_come(snapshot), rounds), milliseconds(lambda: decide(snapshot), rounds)
    rows = [Row(f"decide, {size} queued", ours, "ms", FIRST_COME, peer)]
    plan = milliseconds(lambda: plan_of(snapshot), rounds)
    rows.append(Row(f"plan without reasons, {size} queued", plan, "ms", "decide", ours))
    foretold = milliseconds(lambda: predict(snapshot), max(1, rounds // 3))
    rows.append(Row(f"predict every start, {size} queued", foretold, "ms", "decide", ours))
    outlook = Outlook(snapshot)
    assert outlook.predictions
    last = outlook.decisions.order[-1]
    explained = milliseconds(lambda: explain(outlook, last), max(1, rounds // 3))
    rows.append(Row(f"explain the last job, {size} queued", explained, "ms", "decide", ours))
    return rows


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """The median over rounds, after one that is not counted."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


class _EnoughError(Exception):
    """The platform is busy, and so many jobs wait."""


def queue_of(size: int, tenants: int, accelerators: int) -> Snapshot:
    """Exactly so many queued jobs in front of a platform that is full: those that were left once it was."""
    trace = synthetic_trace(Mix(size + 8 * accelerators, tenants, accelerators))
    at_once = replace(trace, jobs=tuple(replace(job, submit=0.0) for job in trace.jobs))
    found: list[Snapshot] = []

    def watch(snapshot: Snapshot, _decisions: Decisions) -> None:
        found.append(snapshot)
        if len(found) == 2:
            raise _EnoughError

    try:
        Simulation(at_once, SimulationOptions(), time.perf_counter, watch=watch).run()
    except _EnoughError:
        pass
    full = found[-1]
    assert len(full.queued) >= size, f"only {len(full.queued)} jobs wait"
    return replace(full, queued=full.queued[:size])


def first_come(snapshot: Snapshot) -> list[str]:
    """The peer: the uids of those that start."""
    used = [*(job.needs for job in snapshot.active), *(trainer.needs for trainer in snapshot.trainers)]
    cpus = snapshot.capacity.cpus - sum(one.cpus for one in used)
    gpus = snapshot.capacity.gpus - sum(one.gpus for one in used)
    started = []
    for job in sorted(snapshot.queued, key=lambda job: (-job.priority, job.create_time, job.uid)):
        needs = job.work.needs if isinstance(job.work, Alone) else snapshot.trainer_needs
        if needs.cpus <= cpus and needs.gpus <= gpus:
            cpus, gpus = cpus - needs.cpus, gpus - needs.gpus
            started.append(job.uid)
    return started


if __name__ == "__main__":
    main()
