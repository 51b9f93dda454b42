"""Shared trainers, on both databases."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.store import samples

from trellis.errors import AlreadyExists, NotFound
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.trainer import Room, Trainer, TrainerState


async def add(units: UnitOfWorkFactory, *trainers: Trainer) -> None:
    async with units() as unit:
        for trainer in trainers:
            await unit.trainers.add(trainer)
        await unit.commit()


async def test_a_trainer_is_kept_as_it_is(units: UnitOfWorkFactory) -> None:
    plain = samples.trainer()
    await add(units, plain)
    full = replace(
        plain,
        state=TrainerState.RUNNING,
        start_time=samples.at(1),
        hostname="node-7",
        busy_time=samples.at(2),
        room=Room(3, 64, 8_000_000_000),
        room_time=samples.at(3),
        job_count=2,
        tokens_per_second=1234.5,
        drain_time=samples.at(4),
        end_time=samples.at(5),
        outcome="It left.",
        cleaned_up=True,
    )
    async with units() as unit:
        assert await unit.trainers.get(plain.uid) == plain
        assert await unit.trainers.find(plain.token_hash) == plain
        await unit.trainers.save(full)
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.trainers.get(plain.uid) == full
        assert await unit.trainers.get("trainer-2") is None
        assert await unit.trainers.find("0") is None


async def test_a_trainer_is_made_once_and_saved_where_it_is(units: UnitOfWorkFactory) -> None:
    await add(units, samples.trainer())
    with pytest.raises(AlreadyExists, match="Trainer trainer-1"):
        await add(units, samples.trainer())
    with pytest.raises(NotFound):
        async with units() as unit:
            await unit.trainers.save(samples.trainer("trainer-2"))


async def test_those_that_live_and_those_that_are_to_be_cleared_away(units: UnitOfWorkFactory) -> None:
    over = {"state": TrainerState.ENDED, "end_time": samples.at(9)}
    await add(
        units,
        samples.trainer("c", 3, state=TrainerState.RUNNING),
        samples.trainer("a", 1, state=TrainerState.DRAINING),
        samples.trainer("b", 2),
        samples.trainer("gone", 0, **over, cleaned_up=True),
        samples.trainer("late", 0, **{**over, "end_time": samples.at(10)}),
        samples.trainer("early", 5, **over),
    )
    async with units(write=False) as unit:
        assert [trainer.uid for trainer in await unit.trainers.live()] == ["a", "b", "c"]
        assert [trainer.uid for trainer in await unit.trainers.to_clean_up(9)] == ["early", "late"]
        assert [trainer.uid for trainer in await unit.trainers.to_clean_up(1)] == ["early"]


async def test_when_the_last_trainer_of_a_base_ended(units: UnitOfWorkFactory) -> None:
    ended = [samples.trainer(f"t{n}", n, state=TrainerState.ENDED, end_time=samples.at(10 + n)) for n in range(3)]
    other = replace(samples.trainer("other", precision="bf16"), end_time=samples.at(99))
    unseen = samples.trainer("unseen", base_model="baseModels/large")
    await add(units, *ended, samples.trainer("lives", 50), other, unseen)
    async with units(write=False) as unit:
        ends = await unit.trainers.last_ends([ended[0].base, other.base, unseen.base])
    assert ends == {ended[0].base: samples.at(12), other.base: samples.at(99)}


async def test_the_attempts_that_a_trainer_has(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(1), samples.job(2))
    await add(units, samples.trainer())
    mine = samples.attempt("uid-acme-1", 1, seconds=5, trainer_uid="trainer-1")
    younger = samples.attempt("uid-acme-2", 2, seconds=6, trainer_uid="trainer-1")
    async with units() as unit:
        await unit.jobs.add_attempt(younger)
        await unit.jobs.add_attempt(mine)
        over = samples.attempt("uid-acme-2", 1, trainer_uid="trainer-1", end_time=samples.at(3))
        await unit.jobs.add_attempt(over)
        await unit.jobs.add_attempt(samples.attempt("uid-acme-1", 2))
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.trainers.open_attempts(["trainer-1", "trainer-2"]) == [mine, younger]
        assert await unit.trainers.open_attempts([]) == []
        assert await unit.trainers.attempts_ended_since("trainer-1", samples.at(3)) == [over]
        assert await unit.trainers.attempts_ended_since("trainer-1", samples.at(4)) == []
        assert await unit.trainers.attempts_ended_since("trainer-2", samples.at(3)) == []


async def test_those_that_ended_of_late_are_found_cleaned_up_or_not(units: UnitOfWorkFactory) -> None:
    early, late = (samples.trainer(f"trainer-{at}").ended(samples.at(at), "Gone.") for at in (10, 20))
    cleaned = replace(samples.trainer("trainer-30").ended(samples.at(30), "Gone."), cleaned_up=True)
    await add(units, early, late, cleaned, samples.trainer("lives", 50))
    async with units(write=False) as unit:
        assert await unit.trainers.ended_since(samples.at(20), 10) == [late, cleaned]
        assert await unit.trainers.ended_since(samples.at(31), 10) == []


async def test_the_newest_that_measured_stays_when_others_are_pruned(units: UnitOfWorkFactory) -> None:
    def over(uid: str, seconds: float, **changes: Any) -> Trainer:
        return replace(samples.trainer(uid, seconds).ended(samples.at(seconds), "Left."), cleaned_up=True, **changes)

    gone = [over("slow", 1, tokens_per_second=10.0), over("silent", 2), over("silent-too", 4)]
    newest = over("newest", 3, tokens_per_second=20.0)
    kept = [over("lately", 60), replace(over("seen", 5), cleaned_up=False), samples.trainer("lives", 6)]
    await add(units, *gone, newest, *kept)
    async with units() as unit:
        assert await unit.trainers.prune(samples.at(50)) == 3
        await unit.commit()
    async with units(write=False) as unit:
        found = [await unit.trainers.get(trainer.uid) for trainer in (*gone, newest, *kept)]
        assert await unit.trainers.newest_measured("baseModels/tiny") == newest
        assert await unit.trainers.newest_measured("baseModels/other") is None
    assert found == [None, None, None, newest, *kept]


async def test_a_trainer_that_is_read_for_update_is_nobody_elses(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    """Who is second sees what the first has made of it: admission and leaving can't both win."""
    await add(units, samples.trainer())

    async def end(factory: UnitOfWorkFactory, outcome: str) -> bool:
        async with factory() as unit:
            trainer = await unit.trainers.get("trainer-1", for_update=True)
            assert trainer is not None
            if trainer.is_over:
                return False
            await unit.trainers.save(trainer.ended(samples.at(9), outcome))
            await unit.commit()
        return True

    won = await asyncio.gather(*(end(factory, str(n)) for n, factory in enumerate([units, other_units] * 3)))
    assert sum(won) == 1
