from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trellis.engine.blocks import BlockPool, BlockTable, PrefixOwner

ACME = PrefixOwner("acme", "")


def fill(pool: BlockPool, ids: list[int], owner: PrefixOwner = ACME, tokens: int = 0) -> BlockTable:
    table = pool.open(owner, ids, tokens or len(ids))
    assert table is not None
    pool.publish(table, ids, len(ids))
    return table


def test_a_prefix_is_used_again_up_to_the_last_whole_block() -> None:
    pool = BlockPool(8, 4)
    first = fill(pool, list(range(10)))
    again = fill(pool, [*range(8), 77, 78])
    assert again.blocks[:2] == first.blocks[:2]
    assert again.blocks[2] != first.blocks[2]
    assert (first.cached_tokens, again.cached_tokens) == (0, 8)
    assert (pool.used, pool.cached, pool.free) == (4, 0, 4)


def test_the_last_token_is_never_taken_as_known() -> None:
    pool = BlockPool(8, 4)
    fill(pool, list(range(8)))
    assert fill(pool, list(range(8))).cached_tokens == 4


def test_the_same_tokens_after_others_are_another_prefix() -> None:
    pool = BlockPool(8, 2)
    fill(pool, [1, 2, 3, 4, 5])
    assert fill(pool, [3, 4, 5]).cached_tokens == 0
    assert fill(pool, [1, 2, 9, 4, 5]).cached_tokens == 2


@pytest.mark.parametrize("other", [PrefixOwner("globex", ""), PrefixOwner("acme", "f" * 64)])
def test_another_tenant_or_adapter_shares_no_block(other: PrefixOwner) -> None:
    pool = BlockPool(8, 2)
    first = fill(pool, [1, 2, 3, 4, 5])
    second = fill(pool, [1, 2, 3, 4, 5], other)
    assert not set(first.blocks) & set(second.blocks)
    assert second.cached_tokens == 0


def test_ended_sequences_leave_their_prefixes_until_room_is_needed() -> None:
    pool = BlockPool(4, 2)
    pool.close(fill(pool, [1, 2, 3, 4, 5]))
    assert (pool.used, pool.cached, pool.free) == (0, 2, 2)
    again = fill(pool, [1, 2, 3, 4, 5])
    assert again.cached_tokens == 4
    pool.close(again)
    assert pool.open(ACME, [9] * 8, 8) is not None
    assert (pool.used, pool.cached, pool.free) == (4, 0, 0)


def test_the_end_of_a_prefix_goes_before_its_beginning() -> None:
    pool = BlockPool(4, 2)
    pool.close(fill(pool, [1, 2, 3, 4, 5, 6, 7, 8]))
    assert pool.open(ACME, [9, 9], 2) is not None
    assert fill(pool, [1, 2, 3, 4, 5, 6]).cached_tokens == 4


def test_what_is_held_is_never_evicted_and_nothing_is_kept_of_a_failed_open() -> None:
    pool = BlockPool(4, 2)
    held = fill(pool, [1, 2, 3, 4])
    assert pool.open(ACME, [1, 2, 9], 8) is None
    assert (pool.used, pool.cached, pool.free) == (2, 0, 2)
    assert fill(pool, [1, 2, 3, 4, 5]).blocks[:2] == held.blocks


def test_two_who_compute_the_same_at_once_go_on_with_one_copy() -> None:
    pool = BlockPool(8, 2)
    ids = [1, 2, 3, 4, 5]
    tables = [pool.open(ACME, ids, 6), pool.open(ACME, ids, 6)]
    assert pool.used == 6
    for table in tables:
        assert table is not None
        pool.publish(table, ids, 5)
    assert tables[0] is not None
    assert tables[1] is not None
    assert tables[0].blocks[:2] == tables[1].blocks[:2]
    assert pool.used == 4
    for table in tables:
        assert table is not None
        pool.close(table)
    assert (pool.used, pool.cached) == (0, 2)


class Pool(RuleBasedStateMachine):
    """Sequences over few tokens come, grow and go; a model keeps what each block was written with."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(7, 2)
        self.running: list[tuple[PrefixOwner, list[int], int, BlockTable]] = []
        self.written: dict[int, tuple[PrefixOwner, tuple[int, ...]]] = {}

    @rule(owner=st.sampled_from("ab"), ids=st.lists(st.integers(0, 1), min_size=1, max_size=7), extra=st.integers(0, 4))
    def open(self, owner: str, ids: list[int], extra: int) -> None:
        before = self.pool.used
        whose = PrefixOwner(owner, "")
        table = self.pool.open(whose, ids, len(ids) + extra)
        if table is None:
            assert self.pool.used == before
            assert -(-(len(ids) + extra) // 2) > self.pool.free + self.pool.cached - len(ids) // 2
            return
        for place in range(table.cached_tokens // 2):  # what is shared holds what it should
            assert self.written[table.blocks[place]] == (whose, tuple(ids[: place * 2 + 2]))
        self.running.append((whose, ids, table.cached_tokens, table))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        owner, ids, computed, table = self.running[index]
        until = data.draw(st.integers(computed, len(ids)))
        for place in range(computed // 2, -(-until // 2)):
            self.written[table.blocks[place]] = (owner, tuple(ids[: min(until, place * 2 + 2)]))
        self.pool.publish(table, ids, until)
        self.running[index] = (owner, ids, until, table)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.pool.close(self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))[3])

    @invariant()
    def accounts_are_exact(self) -> None:
        held = {block for *_, table in self.running for block in table.blocks}
        assert self.pool.used == len(held)
        assert self.pool.used + self.pool.cached + self.pool.free == self.pool.count

    @invariant()
    def running_sequences_keep_what_they_computed(self) -> None:
        for owner, ids, computed, table in self.running:
            for place in range(computed // 2):
                assert self.written[table.blocks[place]] == (owner, tuple(ids[: place * 2 + 2]))


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
