"""Reports are made once, by whoever is there, and say of a version whether it can be trained on."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.control.platform import Platform
from tests.contract.store import samples
from tests.unit.tokens import bases

from trellis.bases import BaseModelUnreachableError, read_base
from trellis.objects import ObjectStore
from trellis.reports import DatasetReport
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.control import validate
from trellis.server.control.validate import ValidateDatasets
from trellis.server.domain.dataset import DatasetVersion, Report, ReportState, VersionState
from trellis.server.store import tables

SHA = "b" * 64
SECONDS = 20
GOOD = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]}
BAD = {"messages": [{"role": "user", "content": "Hello?"}]}


class WatchedStore(ObjectStore):
    """Counts who is read, and can hold readers up."""

    reads: Counter[str]
    gate: threading.Event
    reading: threading.Event

    @classmethod
    def at(cls, folder: Path) -> "WatchedStore":
        store = cls.open(str(folder))
        store.reads, store.gate, store.reading = Counter(), threading.Event(), threading.Event()
        store.gate.set()
        return store

    def open_read(self, key: str) -> BinaryIO:
        self.reads[key] += 1
        self.reading.set()
        assert self.gate.wait(SECONDS)
        return super().open_read(key)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():
            await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = bases.chatml(tmp_path_factory.mktemp("base"))
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 128, "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"model.layers.0.self_attn.q_proj.weight": np.zeros((4, 4), np.float32)}
    save_file(weights, folder / "model.safetensors")
    return folder


class Data:
    """A version that waits for its report."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.platform = platform
        self.store = WatchedStore.at(folder)

    def step(self, units: UnitOfWorkFactory | None = None, **options: Any) -> ValidateDatasets:
        return ValidateDatasets(self.platform.control(units), self.store, **options)

    async def upload(self, *lines: dict[str, Any], sha256: str = SHA) -> str:
        key = f"tenants/acme/datasets/faq/{sha256}/data"
        self.store.put_bytes(key, "".join(json.dumps(line) + "\n" for line in lines).encode())
        async with self.platform.units() as unit:
            await unit.datasets.add_version(replace(samples.version(sha256), key=key))
            await unit.datasets.add_report(samples.report(sha256))
            await unit.commit()
        return key

    async def version(self, sha256: str = SHA) -> DatasetVersion:
        async with self.platform.units(write=False) as unit:
            found = await unit.datasets.get_version("acme", "faq", sha256)
        assert found is not None
        return found

    async def report(self, base: str = "tiny", sha256: str = SHA) -> Report:
        async with self.platform.units(write=False) as unit:
            found = await unit.datasets.get_report("acme", "faq", sha256, f"baseModels/{base}")
        assert found is not None
        return found


@pytest.fixture
async def data(platform: Platform, tmp_path: Path, base_folder: Path) -> Data:
    async with platform.units() as unit:
        tiny = replace(samples.base(is_default=True), source=str(base_folder), context_length=128)
        await unit.base_models.save(replace(tiny, revision=read_base(str(base_folder)).revision))
        await unit.commit()
    return Data(platform, tmp_path / "objects")


async def test_nothing_to_do_is_nothing_done(data: Data) -> None:
    assert not await data.step().once()


async def test_a_good_file_is_ready(data: Data) -> None:
    await data.upload(GOOD, {**GOOD, "weight": 2})
    assert await data.step().once()
    report, version = await data.report(), await data.version()
    assert (report.state, report.valid) == (ReportState.DONE, True)
    assert (version.state, version.kind, version.line_count) == (VersionState.READY, "chat", 2)
    assert version.summary == report.summary
    found = DatasetReport.from_json(data.store.read_bytes(report.key).decode())
    assert found.trainable_tokens == report.trainable_token_count > 0
    assert not await data.step().once()


async def test_a_bad_file_is_invalid_and_says_why(data: Data) -> None:
    await data.upload(GOOD, BAD, BAD)
    await data.step().once()
    report, version = await data.report(), await data.version()
    assert (report.state, report.valid) == (ReportState.DONE, False)
    assert version.state is VersionState.INVALID
    assert version.summary == "2 errors in 3 lines: 2 example_missing_assistant_message."


async def test_a_report_for_another_base_says_nothing_of_the_version(data: Data, base_folder: Path) -> None:
    await data.upload(GOOD)
    async with data.platform.units() as unit:
        tiny = await unit.base_models.get("tiny")
        assert tiny is not None
        await unit.base_models.add(replace(tiny, base_model_id="other", is_default=False, context_length=8))
        await unit.datasets.add_report(samples.report(SHA, "baseModels/other", seconds=-5))
        await unit.commit()
    await data.step().once()
    assert (await data.report("other")).state is ReportState.DONE
    assert (await data.version()).state is VersionState.VALIDATING
    await data.step().once()
    assert (await data.version()).state is VersionState.READY
    assert (await data.report("other")).key != (await data.report()).key


async def test_a_base_that_is_gone_fails_the_report(data: Data) -> None:
    await data.upload(GOOD)
    async with data.platform.units() as unit:
        await unit.base_models.delete("tiny")
        await unit.commit()
    await data.step().once()
    assert (await data.report()).state is ReportState.FAILED
    assert (await data.version()).state is VersionState.INVALID
    assert (await data.version()).summary == "baseModels/tiny is gone."


async def test_a_base_that_was_changed_fails_the_report(data: Data) -> None:
    await data.upload(GOOD)
    async with data.platform.units() as unit:
        tiny = await unit.base_models.get("tiny")
        assert tiny is not None
        await unit.base_models.save(replace(tiny, revision="sha256:other"))
        await unit.commit()
    await data.step().once()
    report = await data.report()
    assert report.state is ReportState.FAILED
    assert "no longer the base model that was registered" in report.summary


async def test_a_file_that_is_gone_fails_the_report(data: Data) -> None:
    data.store.delete(await data.upload(GOOD))
    await data.step().once()
    assert (await data.report()).state is ReportState.FAILED


async def test_a_hub_that_is_away_fails_nothing(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: str) -> None:
        raise BaseModelUnreachableError("The hub can't be reached.")

    await data.upload(GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(validate, "read_base", away)
        with pytest.raises(BaseModelUnreachableError):
            await data.step().once()
    assert (await data.report()).state is ReportState.PENDING
    assert not await data.step().once(), "it is tried again when the claim is over"
    data.platform.clock.pass_seconds(10)
    assert await data.step().once()
    assert (await data.version()).state is VersionState.READY


async def test_a_claim_is_kept_while_a_large_file_is_read(data: Data, engine: AsyncEngine) -> None:
    await data.upload(*[GOOD] * 1000)
    data.store.gate.clear()
    building = asyncio.create_task(data.step(claim=timedelta(seconds=0.15)).once())
    await until(lambda: _set(data.store.reading))
    first = await _expiry(engine)

    async def is_renewed() -> bool:
        data.platform.clock.pass_seconds(0.01)
        return (await _expiry(engine)) > first + timedelta(seconds=0.1)

    await until(is_renewed)
    data.store.gate.set()
    assert await building
    assert (await data.report()).state is ReportState.DONE
    assert data.store.reads.total() == 1


async def test_a_dead_server_s_report_is_taken_over_and_its_own_end_is_refused(data: Data) -> None:
    await data.upload(*[GOOD] * 1000)
    data.store.gate.clear()
    building = asyncio.create_task(data.step(claim=timedelta(seconds=9)).once())
    await until(lambda: _set(data.store.reading))
    data.platform.clock.pass_seconds(10)
    async with data.platform.units() as unit:
        claim = samples.claim("other", 100)
        assert await unit.datasets.claim_report(claim, data.platform.clock.now())
        await unit.commit()
    data.store.gate.set()
    await building
    assert (await data.report()).state is ReportState.PENDING
    assert (await data.version()).state is VersionState.VALIDATING
    data.platform.clock.pass_seconds(100)
    assert await data.step().once()
    assert (await data.version()).state is VersionState.READY


async def test_a_server_that_stops_gives_the_work_up(data: Data) -> None:
    await data.upload(*[GOOD] * 1000)
    data.store.gate.clear()
    building = asyncio.create_task(data.step().once())
    await until(lambda: _set(data.store.reading))
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    data.store.gate.set()
    assert (await data.report()).state is ReportState.PENDING
    data.platform.clock.pass_seconds(10)
    assert await data.step().once()
    assert (await data.version()).state is VersionState.READY


async def test_a_report_on_what_was_deleted_meanwhile_leaves_nothing(data: Data) -> None:
    await data.upload(GOOD)
    data.store.gate.clear()
    building = asyncio.create_task(data.step().once())
    await until(lambda: _set(data.store.reading))
    async with data.platform.units() as unit:
        await unit.datasets.delete("acme", "faq")
        await unit.commit()
    data.store.gate.set()
    await building
    assert [item.key for item in data.store.list("tenants/acme") if "reports" in item.key] == []


async def test_two_servers_make_each_report_once(data: Data, other_units: UnitOfWorkFactory) -> None:
    keys = [await data.upload(GOOD, sha256=str(number) * 64) for number in range(1, 7)]

    async def work(step: ValidateDatasets) -> None:
        while await step.once():
            pass

    await asyncio.gather(work(data.step()), work(data.step(other_units)), work(data.step()))
    assert data.store.reads == Counter(keys)
    for number in range(1, 7):
        assert (await data.version(str(number) * 64)).state is VersionState.READY


async def _set(event: threading.Event) -> bool:
    return event.is_set()


async def _expiry(engine: AsyncEngine) -> datetime:
    async with engine.connect() as connection:
        query = select(tables.reports.c.claim_expire_time).where(tables.reports.c.sha256 == SHA)
        found = (await connection.execute(query)).scalar_one()
    assert isinstance(found, datetime)
    return found
