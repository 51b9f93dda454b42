"""What is measured, part by part; every value beside its own peer in the same round."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.bench.gpu_rig.sizes import Mix, Sizes, allowed_share
from tests.bench.report import Row
from tests.bench.serving_rig.finding import Finding
from tests.bench.serving_rig.fleet import Fleet, Model
from tests.bench.serving_rig.oversubscribed import Oversubscribed
from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.workload import draw

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Paired:
    """Tokens a second, ours and the peer's, one of each a round."""

    name: str
    peer: str
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def share(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(one / other for one, other in zip(self.ours, self.theirs, strict=True))

    def rows(self) -> Iterator[Row]:
        """The medians, and the median of the pairs."""
        rates = (statistics.median(values) for values in (self.ours, self.theirs))
        yield Row(f"{self.name}, answers", next(rates), "tok/s", self.peer, next(rates))
        yield Row(f"{self.name}, median of the rounds' ratios", self.share, "share")


@dataclass(frozen=True, slots=True)
class Gpu:
    """The parts that one model goes through, with engines of `device`."""

    sizes: Sizes
    fleet: Fleet
    model: Model
    device: str
    rounds: int
    say: Say

    def mixes(self) -> list[Paired]:
        """Each mix of adapters beside the base alone, then few registered adapters beside many."""
        sizes = self.sizes
        engine = self._engine("resident", sizes.most_adapters, sizes.most_adapters)
        self._warm(engine)
        found = [self._mix(engine, mix) for mix in sizes.mixes]
        found.append(self._registered(engine))
        self.fleet.end()
        return found

    def slots(self) -> list[Finding]:
        """Twice as many adapters as slots."""
        sizes = self.sizes
        engine = self._engine("slots", 2 * sizes.slots, sizes.slots)
        part = Oversubscribed(engine, self.model, sizes.slots, sizes.slot_requests)
        found = part.run(self.rounds, self.say)
        self.fleet.end()
        return found

    def limits(self) -> Iterator[Row]:
        """What the memory's speed would allow each mix."""
        for mix in self.sizes.mixes:
            share = allowed_share(self.sizes.shape, self.sizes.lengths, mix)
            yield Row(f"{mix.name}, what memory allows in decoding", share, "share")

    def _engine(self, name: str, count: int, slots: int) -> System:
        sizes = self.sizes
        at_once = max(sizes.at_once, 2 * sizes.slots, *(mix.at_once for mix in sizes.mixes))
        room = {"kv_mib": sizes.kv_mib, "host_mib": sizes.host_mib, "rank": sizes.shape.rank, "device": self.device}
        return self.fleet.trellis(self.model, name, {"count": count, "slots": slots, "at_once": at_once, **room})

    def _warm(self, engine: System) -> None:
        """Every adapter once, so that all are in the bank; and every mix once, so that its graphs are recorded."""
        most = self.sizes.most_adapters
        for start in range(0, most, self.sizes.at_once):
            which = range(start, min(start + self.sizes.at_once, most))
            self._rate(engine, f"warm {start}", which, len(which), len(which))
        for mix in self.sizes.mixes:
            self._pair(engine, mix, -1)
        self.say(f"warm: {engine.ask('usage')}")

    def _mix(self, engine: System, mix: Mix) -> Paired:
        pairs = [self._pair(engine, mix, number) for number in range(self.rounds)]
        found = Paired(f"{mix.name}_over_base", "own base alone", *zip(*pairs, strict=True))
        self.say(f"{found.name}: {found.share:.3f}")
        return found

    def _pair(self, engine: System, mix: Mix, number: int) -> tuple[float, float]:
        seed = f"{mix.name} {number}"
        ours = self._rate(engine, seed, range(mix.adapters), mix.at_once, mix.at_once)
        return ours, self._rate(engine, f"{seed} base", [None], mix.at_once, mix.at_once)

    def _registered(self, engine: System) -> Paired:
        few, many = self.sizes.registered
        pairs = []
        for number in range(self.rounds):
            seed, requests = f"registered {number}", 4 * self.sizes.at_once
            ours, theirs = (
                self._rate(engine, f"{seed} {count}", range(count), requests, self.sizes.at_once)
                for count in (many, few)
            )
            pairs.append((ours, theirs))
        found = Paired(f"registered{many}_over_{few}", f"{few} registered", *zip(*pairs, strict=True))
        self.say(f"{found.name}: {found.share:.3f}")
        return found

    def _rate(self, engine: System, seed: str, adapters: Sequence[int | None], requests: int, at_once: int) -> float:
        workload = draw(seed, requests, self.sizes.lengths, list(adapters), self.model.tokens, at_once)
        return engine.run(workload).rate
