"""What eight tenants take of the machine's memory, and what a job takes for each number that it trains."""

from collections.abc import Callable, Iterator

from tests.bench.training_rig.crowd import Crowd
from tests.bench.training_rig.finding import Finding, Point
from tests.bench.training_rig.platform import fresh_platform
from tests.bench.training_rig.programs import Programs
from tests.bench.training_rig.resident import Peak, watched

Say = Callable[[str], None]
OURS = "Trellis, all its processes"
THEIRS = "Trainer, processes at once"


def peaks(crowd: Crowd, programs: Programs, rounds: int, say: Say, threads: int) -> tuple[Finding, list[Point]]:
    """The whole platform while the crowd tunes, beside a program for each tenant at the same time."""
    ours, theirs = [], []
    for number in range(rounds):
        with watched() as peak:
            programs.at_once(crowd)
        theirs.append(peak.mib)
        _tell(say, number, THEIRS, peak)
        with watched() as peak, fresh_platform(say, [crowd], threads) as platform:
            platform(crowd)
        ours.append(peak.mib)
        _tell(say, number, OURS, peak)
    note = f"{crowd}; sums of proportional set sizes, looked at twice a second, from the platform's start to its end"
    return Finding.of("memory_tenants8_over_processes", ours, theirs, note), list(_points(crowd, ours, theirs))


def _points(crowd: Crowd, ours: list[float], theirs: list[float]) -> Iterator[Point]:
    for name, values in ((OURS, ours), (THEIRS, theirs)):
        yield Point("memory", name, len(crowd.tenants), crowd.lengths.name, crowd.mix, max(values), "MiB")


def _tell(say: Say, number: int, name: str, peak: Peak) -> None:
    say(f"round {number + 1}: {name}: {peak.mib:.0f} MiB in {peak.processes} processes")
