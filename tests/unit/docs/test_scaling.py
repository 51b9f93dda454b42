"""The figures of docs/scaling.md are those that were measured, or follow from them."""

import json
import re
from pathlib import Path
from typing import Any

from trellis.server.app.report_pace import OFTEN, ReportPace

DOCS = Path(__file__).parents[3] / "docs"
PAGE = " ".join((DOCS / "scaling.md").read_text().split())
SHEET: dict[str, Any] = json.loads((DOCS / "benchmarks" / "scale.json").read_text())
FOUND = {row["name"]: float(row["value"]) for row in SHEET["rows"]}
SIZES = [dict(re.findall(r"(\w+)=(\d+)", said)) for said in SHEET["settings"]["sizes"]]
SMALL, MIDDLE, LARGE = (int(size["accelerators"]) for size in SIZES)
LONE, ONE, MESSAGE = (
    "a lone model call with one message, CPU of the server",
    "one of many such calls at once, CPU of the server",
    "each further message of an answer, CPU of the server",
)
MESSAGES = 2000
"""That an engine hands on in a second at the most."""
OLD = "The figures of calls and messages are those of a quiet machine before that was so (10 ms and 181 µs)"


def at(name: str, accelerators: int = LARGE) -> float:
    return FOUND[f"{name}, {accelerators} accelerators"]


def holds(sentence: str) -> None:
    assert sentence in PAGE, f"docs/scaling.md must hold: {sentence}"


def of_the_page(pattern: str) -> float:
    (found,) = re.findall(pattern, PAGE)
    return float(found)


def running(accelerators: int) -> int:
    return accelerators // 2 * 8


def reports(jobs: int) -> float:
    """A second, of all jobs together."""
    pace = ReportPace()
    pace.see(jobs)
    return jobs / pace.seconds


def digits(value: float) -> str:
    """Two of them, as no more are certain."""
    return f"{float(f'{value:.2g}'):g}"


def test_the_sizes_are_those_that_were_measured() -> None:
    each = [
        (int(size["accelerators"]), int(size["adapters"]), int(size["queued"]), int(size["jobs_a_trainer"]))
        for size in SIZES
    ]
    assert all(jobs == 8 and queued == 10 * count for count, _, queued, jobs in each)
    assert {(size["tenants"], size["bases"]) for size in SIZES} == {("200", "50")}
    holds("200 tenants, 50 base models, and ten queued jobs for every accelerator")
    holds(f"| adapters deployed | {' | '.join(f'{adapters:,}' for _, adapters, _, _ in each)} |")
    jobs = " | ".join(f"{running(count):,}, {queued:,}" for count, _, queued, _ in each)
    holds(f"| jobs running, queued | {jobs} |")


def test_each_cost_is_the_measured_one() -> None:
    queued, adapters = int(SIZES[2]["queued"]), int(SIZES[2]["adapters"])
    holds(f"| {at('a report of a job, ms'):.1f} ms of a server's core, and a commit |")
    holds(f"| {at('admit, ms a round'):,.0f} ms at {queued:,} queued |")
    after = at("deploy after a change, ms a round") / 1e3
    holds(f"| {at('deploy, ms a round'):.0f} ms at 50 bases and {adapters:,} adapters; {after:.1f} s every 5 s ")
    of_trainers = sum(at(f"{name}, ms a round") for name in ("watch_trainers", "measure_trainers", "reap_trainers"))
    holds(f"| {of_trainers:.0f} ms at {LARGE // 2} trainers |")
    holds(f"| {at('route a call, µs'):,.0f} µs among {LARGE // 2} replicas of one base, 1/50 of it among 10 |")


def test_the_table_of_three_sizes_follows() -> None:
    loops = " | ".join(f"{at('all loops, part of a core', size):.2f}" for size in (SMALL, MIDDLE, LARGE))
    holds(f"| all control loops of the server that does most, cores | {loops} |")
    report = at("a report of a job, ms") / 1e3
    rates = [reports(running(size)) for size in (SMALL, MIDDLE, LARGE)]
    cores = " | ".join(f"{rate:.0f}, {digits(rate * report)}" for rate in rates)
    holds(f"| reports a second, cores for them | {cores} |")
    message = of_the_page(r"\| (\d+) µs of a server's core; less where the server falls behind \|") / 1e6
    small, *others = (size // 2 * MESSAGES for size in (SMALL, MIDDLE, LARGE))
    carried = " | ".join(f"{count:,}, {digits(count * message)}" for count in others)
    holds(f"| {small:,} a second, {digits(small * message)} | {carried} |")


def test_the_first_bottleneck_follows() -> None:
    message = of_the_page(r"\| (\d+) µs of a server's core; less where the server falls behind \|") / 1e6
    call = of_the_page(r"\| ([\d.]+) ms of a server's core, once, beside others; a lone one [\d.]+ ms \|") / 1e3
    engines = digits(1 / (MESSAGES * message))
    holds(f"one core of a server carries {engines} engines")
    holds(f"{LARGE // 2} engines at full stream want {digits(LARGE // 2 * MESSAGES * message)} cores")
    holds(f"count a core for every {engines} GPUs")
    holds(f"a core carries some {digits(1 / call)} a second")
    unbounded = running(LARGE) / OFTEN
    assert digits(unbounded * at("a report of a job, ms") / 1e3) == "16"
    holds(f"{running(LARGE):,} jobs would have made {float(digits(unbounded)):,.0f} reports a second, which is sixteen")


def test_calls_and_messages_are_the_measured_ones_or_said_to_be_older() -> None:
    if ONE not in FOUND:
        holds(OLD)
        assert round(FOUND["a model call with one message, CPU of the server"]) == 10
        assert round(FOUND[MESSAGE]) == 181
        return
    assert OLD not in PAGE, "they were measured again: docs/scaling.md need not say any more that they are older"
    holds(f"| {digits(FOUND[ONE])} ms of a server's core, once, beside others; a lone one {digits(FOUND[LONE])} ms |")
    holds(f"| {digits(FOUND[MESSAGE])} µs of a server's core; less where the server falls behind |")


def test_a_decision_is_the_scheduler_s() -> None:
    rows = json.loads((DOCS / "benchmarks" / "scheduler.json").read_text())["rows"]
    (decided,) = (float(row["value"]) for row in rows if row["name"] == "decide, 10000 queued")
    holds(f"With 10,000 waiting at once a decision takes {decided:.0f} ms")
