"""The KV cache's blocks: who holds which, and which prefixes can be used again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class PrefixOwner(NamedTuple):
    """Whose keys and values may be used again: two tenants never share any, nor do two adapters of one tenant."""

    tenant: str
    adapter_digest: str
    """Empty for the base alone."""


class _Prefix(NamedTuple):
    """A block's place in the index: what it follows (the owner, or the block before it), and its own tokens."""

    follows: PrefixOwner | int
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class BlockTable:
    """The blocks of one sequence, in the order of its tokens; the pool opens, fills and closes it."""

    blocks: list[int]
    tail: PrefixOwner | int
    """What the next block to be published follows: an entry of the index, by its number."""
    published: int = 0
    """Blocks, from the first, that the index knows."""
    cached_tokens: int = 0
    """Tokens, from the first, that others had computed before."""


@dataclass(slots=True)
class _Entry:
    """What the index knows of a block."""

    number: int
    """Never used twice, so that a block that holds something else by now is not taken for what it held."""
    prefix: _Prefix


@dataclass(slots=True)
class BlockPool:
    """Blocks of equal size with reference counts; one that nobody holds is kept for its prefix until room is needed.

    A block is used (held by sequences), cached (held by nobody, its prefix can be used again) or free. Prefixes are
    compared by their tokens, not by a hash of them. The least recently used goes first, and as a sequence's last block
    is let go of first, never a block that another cached one follows.
    """

    count: int
    block_tokens: int
    _free: list[int] = field(init=False)
    _references: list[int] = field(init=False)
    _entries: dict[int, _Entry] = field(init=False, default_factory=dict)
    _index: dict[_Prefix, int] = field(init=False, default_factory=dict)
    _unused: dict[int, None] = field(init=False, default_factory=dict)
    """The cached blocks, the least recently used first."""
    _numbers: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._free = list(range(self.count - 1, -1, -1))
        self._references = [0] * self.count

    @property
    def used(self) -> int:
        """Blocks that sequences hold."""
        return self.count - self.cached - self.free

    @property
    def cached(self) -> int:
        """Blocks that hold nothing but prefixes that can be used again."""
        return len(self._unused)

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks so many tokens take."""
        return -(-tokens // self.block_tokens)

    def needed(self, owner: PrefixOwner, token_ids: Sequence[int], tokens: int) -> int:
        """How many blocks that nobody holds `open` would take."""
        known, _ = self._match(owner, token_ids)
        return self.blocks_for(tokens) - sum(self._references[block] > 0 for block in known)

    def open(self, owner: PrefixOwner, token_ids: Sequence[int], tokens: int) -> BlockTable | None:
        """Blocks for `tokens` tokens that begin with `token_ids`, known ones first; None when there is no room.

        The last of `token_ids` is never taken as known: somebody wants the logits after it.
        """
        known, tail = self._match(owner, token_ids)
        for block in known:
            self._retain(block)
        fresh = self._allocate(self.blocks_for(tokens) - len(known))
        if fresh is None:
            self._release(known)
            return None
        return BlockTable(known + fresh, tail, len(known), len(known) * self.block_tokens)

    def publish(self, table: BlockTable, token_ids: Sequence[int], computed: int) -> None:
        """Let others use those blocks that the first `computed` tokens fill.

        Where another sequence published the same first, the table goes on with that one's block, and its own is free.
        """
        for place in range(table.published, computed // self.block_tokens):
            start = place * self.block_tokens
            prefix = _Prefix(table.tail, tuple(token_ids[start : start + self.block_tokens]))
            block = self._index.get(prefix)
            if block is None:
                block = self._enter(table.blocks[place], prefix)
            else:
                self._retain(block)
                self._release([table.blocks[place]])
                table.blocks[place] = block
            table.tail = self._entries[block].number
            table.published = place + 1

    def close(self, table: BlockTable) -> None:
        """Let go of a sequence's blocks; those that were published stay cached."""
        self._release(table.blocks)
        table.blocks = []

    def _match(self, owner: PrefixOwner, token_ids: Sequence[int]) -> tuple[list[int], PrefixOwner | int]:
        found: list[int] = []
        tail: PrefixOwner | int = owner
        size = self.block_tokens
        for start in range(0, (len(token_ids) - 1) // size * size, size):
            block = self._index.get(_Prefix(tail, tuple(token_ids[start : start + size])))
            if block is None:
                break
            found.append(block)
            tail = self._entries[block].number
        return found, tail

    def _enter(self, block: int, prefix: _Prefix) -> int:
        self._numbers += 1
        self._index[prefix] = block
        self._entries[block] = _Entry(self._numbers, prefix)
        return block

    def _allocate(self, count: int) -> list[int] | None:
        if count > len(self._free) + len(self._unused):
            return None
        while len(self._free) < count:
            self._evict()
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
        return blocks

    def _evict(self) -> None:
        block = next(iter(self._unused))
        del self._unused[block]
        del self._index[self._entries.pop(block).prefix]
        self._free.append(block)

    def _retain(self, block: int) -> None:
        self._unused.pop(block, None)
        self._references[block] += 1

    def _release(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):  # what follows goes before what it follows
            self._references[block] -= 1
            assert self._references[block] >= 0, "a block was let go of twice"
            if self._references[block]:
                continue
            if block in self._entries:
                self._unused[block] = None
            else:
                self._free.append(block)
