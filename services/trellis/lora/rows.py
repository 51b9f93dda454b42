"""Who owns which rank rows of a bank."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RowMap:
    """Consecutive rows a slot, found first-fit; no row has two owners."""

    rows: int
    _owned: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Rows without an owner, wherever they are."""
        return self.rows - sum(count for _, count in self._owned.values())

    def find(self, count: int) -> int | None:
        """The first row of a gap of `count` rows; None when there is none."""
        start = 0
        for first, owned in sorted(self._owned.values()):
            if first - start >= count:
                return start
            start = first + owned
        return start if self.rows - start >= count else None

    def take(self, slot: int, start: int, count: int) -> None:
        """Give rows to a slot."""
        assert slot not in self._owned
        self._owned[slot] = (start, count)

    def give_back(self, slot: int) -> tuple[int, int]:
        """The slot's rows, which it no longer owns."""
        return self._owned.pop(slot)

    def of(self, slot: int) -> tuple[int, int]:
        """First row and count."""
        return self._owned[slot]

    def close_gaps(self) -> list[tuple[int, int, int]]:
        """Move every owner down to where the last one ends; the moves (from, to, count), to be done in this order."""
        moves, start = [], 0
        for slot, (first, count) in sorted(self._owned.items(), key=lambda item: item[1]):
            if first != start:
                moves.append((first, start, count))
                self._owned[slot] = (start, count)
            start += count
        return moves
