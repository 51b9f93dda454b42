"""From submit to adapters that are ready: Trellis beside a process a tenant, one warm process, and TRL."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.training_rig.crowd import Crowd, Ready, System, compared
from tests.bench.training_rig.finding import Finding, Point
from tests.bench.training_rig.platform import Platform, fresh_platform

COLD: Final = "Trellis, cold trainer"
WARM: Final = "Trellis, warm trainer"
PROCESSES: Final = "Trainer, a process a tenant"
PROCESS: Final = "Trainer, one warm process"
TRL: Final = "TRL, a process a tenant"
_PAIRS: Final = (
    ("tenants8_submit_to_ready_speedup", WARM, PROCESSES),
    ("tenants8_submit_to_ready_speedup_cold", COLD, PROCESSES),
    ("tenants8_submit_to_ready_over_warm_process", WARM, PROCESS),
    ("tenants8_submit_to_ready_over_trl", WARM, TRL),
)
Say = Callable[[str], None]
Found = Mapping[str, list[Ready]]


@dataclass
class Rounds:
    """Rounds in which one crowd goes through every system, one after another."""

    peers: Mapping[str, System]
    say: Say
    threads: int
    """Of the trainer, as of the peers."""
    rounds: int
    first_steps: list[float] = field(default_factory=list)
    """Of a job that comes alone to a warm trainer, once a round: seconds from admission to its first step's end."""

    def run(self, crowd: Crowd, alone: Crowd) -> Found:
        """What each system made of the crowd; each round has a platform that has never trained before.

        A round that fails after others were complete is left out, with all after it.
        """
        found: dict[str, list[Ready]] = {name: [] for name in (COLD, WARM, *self.peers)}
        for number in range(self.rounds):
            try:
                one = self._round(number, crowd, alone)
            except Exception as error:
                if number == 0:
                    raise
                self.say(f"round {number + 1} failed, which ends the rounds: {error}")
                break
            for name, ready in one.items():
                found[name].append(ready)
        return found

    def _round(self, number: int, crowd: Crowd, alone: Crowd) -> Mapping[str, Ready]:
        found: dict[str, Ready] = {}
        for name, peer in self.peers.items():
            self._keep(found, name, peer(crowd), number, crowd)
        with fresh_platform(self.say, [crowd, alone], self.threads) as platform:
            self._keep(found, COLD, platform(crowd), number, crowd)
            self._keep(found, WARM, platform(crowd), number, crowd)
            self._first_step(platform, alone)
        return found

    def _keep(self, found: dict[str, Ready], name: str, ready: Ready, number: int, crowd: Crowd) -> None:
        self.say(f"round {number + 1}: {name}, {crowd}: {ready.seconds:.1f} s, last loss {ready.last_loss:.3f}")
        found[name] = ready

    def _first_step(self, platform: Platform, alone: Crowd) -> None:
        platform(alone)
        self.first_steps.append(platform.admission_to_first_step(alone.tenants[0]))
        self.say(f"first step after admission: {self.first_steps[-1]:.2f} s")


def headline(found: Found, crowd: Crowd, first_steps: Sequence[float]) -> Iterator[Finding]:
    """The rows, of the systems that there are."""
    for name, one, other in _PAIRS:
        if found.get(one) and found.get(other):
            ours, theirs = ([ready.seconds for ready in found[which]] for which in (one, other))
            yield Finding.of(name, ours, theirs, f"{crowd}; {compared(found[one][-1], found[other][-1])}")
    if first_steps:
        yield Finding.of("warm_first_step_seconds", first_steps, note="one job alone, to an idle trainer that is warm")


def grid(crowds: Sequence[Crowd], peers: Mapping[str, System], rounds: int, say: Say, threads: int) -> Iterator[Point]:
    """Every crowd through every system; one platform a round, warm after its first crowd."""
    found: dict[tuple[int, str], list[Ready]] = {}
    for number in range(rounds):
        with fresh_platform(say, crowds, threads) as platform:
            platform(crowds[0])
            systems: Mapping[str, System] = {**peers, WARM: platform}
            for place, crowd in enumerate(crowds):
                for name, system in systems.items():
                    ready = system(crowd)
                    say(f"round {number + 1}: {name}, {crowd}: {ready.seconds:.1f} s, last loss {ready.last_loss:.3f}")
                    found.setdefault((place, name), []).append(ready)
    for (place, name), some in found.items():
        yield from _points("grid", name, crowds[place], some)


def points(part: str, found: Found, crowd: Crowd) -> Iterator[Point]:
    """The medians of each system's rounds."""
    for name, some in found.items():
        if some:
            yield from _points(part, name, crowd, some)


def _points(part: str, name: str, crowd: Crowd, some: Sequence[Ready]) -> Iterator[Point]:
    place = (part, name, len(crowd.tenants), crowd.lengths.name, crowd.mix)
    yield Point(*place, statistics.median(ready.seconds for ready in some), "s")
    yield Point(*place, statistics.median(ready.rate for ready in some), "tok/s")
