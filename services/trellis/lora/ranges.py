"""Who owns which numbers of a bank."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RangeMap:
    """Consecutive numbers a slot, found first-fit; no number has two owners."""

    size: int
    _owned: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Numbers without an owner, wherever they are."""
        return self.size - sum(count for _, count in self._owned.values())

    def find(self, count: int) -> int | None:
        """Where a gap of `count` numbers begins; None when there is none."""
        start = 0
        for first, owned in sorted(self._owned.values()):
            if first - start >= count:
                return start
            start = first + owned
        return start if self.size - start >= count else None

    def take(self, slot: int, start: int, count: int) -> None:
        """Give a range to a slot."""
        assert slot not in self._owned
        self._owned[slot] = (start, count)

    def give_back(self, slot: int) -> tuple[int, int]:
        """The slot's range, which it no longer owns."""
        return self._owned.pop(slot)

    def of(self, slot: int) -> tuple[int, int]:
        """First number and count."""
        return self._owned[slot]

    def close_gaps(self) -> list[tuple[int, int, int, int]]:
        """Move every owner down to where the last one ends; the moves (slot, from, to, count), to be done in this order."""
        moves, start = [], 0
        for slot, (first, count) in sorted(self._owned.items(), key=lambda item: item[1]):
            if first != start:
                moves.append((slot, first, start, count))
                self._owned[slot] = (start, count)
            start += count
        return moves
