"""One DeepSpeed worker against two, on the same machine."""

from collections.abc import Callable, Iterator

from tests.bench.training_rig.crowd import Crowd
from tests.bench.training_rig.finding import Finding
from tests.bench.training_rig.platform import fresh_platform

_NOTE = "a sanity figure only: two workers share the cores, the memory and the loopback of one machine"


def workers(crowd: Crowd, rounds: int, say: Callable[[str], None]) -> Iterator[Finding]:
    """The first tenant's job with two workers beside the same job with one: tokens a second of their steps."""
    two: list[float] = []
    one: list[float] = []
    with fresh_platform(say, [crowd], 1) as platform:
        for number in range(rounds):
            for count, rates in ((1, one), (2, two)):
                rates.append(platform.distributed_rate(crowd, count))
                say(f"round {number + 1}: {count} DeepSpeed workers: {rates[-1]:.0f} tok/s")
    yield Finding.of("distributed_two_over_one_workers", two, one, _NOTE)
