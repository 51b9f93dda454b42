"""Trainers, engines and jobs wait for a base that is being fetched."""

from pathlib import Path

import pytest
from tests.hub_fake import write_base

from trellis.base_cache.cache import split_revision
from trellis.base_cache.fetch import fetch
from trellis.base_cache.waiting import read_base_in_time
from trellis.bases import BaseModelError, BaseModelNotFetchedError


class Clock:
    """Time that passes when somebody sleeps, and what happens then."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.events: dict[int, object] = {}

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        if callable(deed := self.events.get(len(self.slept))):
            deed()


def test_a_base_is_there_as_soon_as_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRELLIS_BASE_CACHE", str(tmp_path / "cache"))
    folder, clock = write_base(tmp_path / "model", rows=100), Clock()
    source = "acme/llama"

    def arrive() -> None:
        got = fetch(str(folder), "", tmp_path / "other")
        entry = tmp_path / "cache" / entry_name(source)
        entry.mkdir(parents=True)
        manifest = got.path / "trellis-base.manifest"
        manifest.write_text(manifest.read_text().replace(str(folder), source))
        got.path.rename(entry / got.path.name)
        (entry / "refs").mkdir()
        (entry / "refs" / "last-fetched").write_text(got.revision)

    clock.events[6] = arrive
    facts = read_base_in_time(source, clock=clock, sleep=clock.sleep)
    assert facts.architecture == "LlamaForCausalLM"
    assert clock.slept == [1, 2, 4, 8, 15, 15]


def entry_name(source: str) -> str:
    from trellis.base_cache.cache import entry_of  # noqa: PLC0415

    return entry_of(source, Path()).name


def test_waiting_has_an_end_and_what_is_wrong_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRELLIS_BASE_CACHE", str(tmp_path / "cache"))
    clock = Clock()
    with pytest.raises(BaseModelNotFetchedError, match="Fetch it first"):
        read_base_in_time("acme/llama", patience=100, clock=clock, sleep=clock.sleep)
    assert 85 < clock.now <= 100
    with pytest.raises(BaseModelError, match="no folder") as caught:
        read_base_in_time("/nowhere", clock=clock, sleep=clock.sleep)
    assert not isinstance(caught.value, BaseModelNotFetchedError)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("acme/llama", ("acme/llama", "")),
        ("acme/llama@main", ("acme/llama", "main")),
        ("s3://b/p@x", ("s3://b/p@x", "")),
        (f"s3://b/p@sha256:{'0' * 64}", ("s3://b/p", f"sha256:{'0' * 64}")),
        ("/bases/a@b", ("/bases/a@b", "")),
        (f"/bases/a@b@{'a' * 40}", ("/bases/a@b", "a" * 40)),
    ],
)
def test_a_source_may_name_its_revision(text: str, parts: tuple[str, str]) -> None:
    assert split_revision(text) == parts
