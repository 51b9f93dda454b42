from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from tests.workshop import Workshop, make_workshop

from trellis.engine import AdapterRef, TierEvent
from trellis.engine.adapter_files import AdapterFiles
from trellis.errors import NotFound
from trellis.serving.adapter_folders import AdapterFolders


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("folders"))


class Bench:
    def __init__(self, workshop: Workshop, most_bytes: int = 1 << 30) -> None:
        self.events: Counter[TierEvent] = Counter()
        files = AdapterFiles(workshop.store, workshop.facts, workshop.tokenizer.digest)
        self.folders = AdapterFolders(files, workshop.facts, most_bytes, lambda event: self.events.update([event]))


async def test_many_users_wait_for_one_load(workshop: Workshop) -> None:
    bench, ref = Bench(workshop), workshop.adapter(1)

    async def use() -> int:
        async with bench.folders.using(ref) as folder:
            assert (folder.path / "adapter_model.safetensors").is_file()
            return folder.number

    assert len({*await asyncio.gather(*(use() for _ in range(5)))}) == 1
    assert bench.events == {TierEvent.FETCHED: 1}
    bench.folders.close()
    assert not bench.folders._root.exists()


async def test_a_failed_load_is_tried_again(workshop: Workshop) -> None:
    bench, ref = Bench(workshop), AdapterRef("0" * 64, "adapters/none")
    for _ in range(2):
        with pytest.raises(NotFound):
            async with bench.folders.using(ref):
                pytest.fail("it is not there")
    assert bench.folders.digests == ()
    assert list(bench.folders._root.iterdir()) == []
    assert bench.events == {TierEvent.FAILED: 2}


async def test_the_least_recently_used_goes_and_what_is_used_stays(workshop: Workshop) -> None:
    refs = [workshop.adapter(seed) for seed in range(1, 5)]
    probe = Bench(workshop)
    async with probe.folders.using(refs[0]) as folder:
        size = folder.loading.result().size_bytes
    bench = Bench(workshop, int(2.5 * size))
    async with bench.folders.using(refs[0]):
        for ref in refs[1:]:
            async with bench.folders.using(ref):
                pass
        assert bench.folders.digests == (refs[0].digest, refs[3].digest)
    assert bench.events[TierEvent.DROPPED] == 2
    async with bench.folders.using(refs[1]) as folder:
        assert folder.path.is_dir()


async def test_who_leaves_while_it_loads_lets_go_of_it(workshop: Workshop) -> None:
    bench, ref = Bench(workshop), workshop.adapter(1)

    async def use() -> None:
        async with bench.folders.using(ref):
            pytest.fail("it was cancelled")

    task = asyncio.create_task(use())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with bench.folders.using(ref) as folder:
        assert folder.users == 1
