"""Bases from the hub into the cache, over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hub_fake import COMMIT, Hub, running_hub, write_base

from trellis.base_cache.cache import cached, locate, underway
from trellis.base_cache.errors import BaseCacheError, PassingError
from trellis.base_cache.fetch import FetchOptions, fetch, verify
from trellis.base_cache.progress import Event
from trellis.bases import BaseModelError, BaseModelNotFetchedError, read_base

MODEL = "acme/llama"
WANTED = {
    "config.json",
    "model-1-of-2.safetensors",
    "model-2-of-2.safetensors",
    "model.safetensors.index.json",
    "tokenizer_config.json",
    "trellis-base.manifest",
}
SHARD = "model-1-of-2.safetensors"
QUICK = FetchOptions(sleep=lambda _seconds: None, lease_seconds=5.0, poll_seconds=0.05)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRELLIS_BASE_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.folders[MODEL] = write_base(tmp_path / "model")
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def size_of(hub: Hub, name: str) -> int:
    return (hub.folders[MODEL] / name).stat().st_size


def start(cache: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trellis.base_cache", MODEL, "--cache", str(cache), "--format", "json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_a_base_is_fetched_once_and_read_without_the_hub(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    got = fetch(MODEL, "", cache, events.append, QUICK)
    assert (got.revision, got.was_present) == (COMMIT, False)
    assert {path.name for path in got.path.iterdir()} == WANTED
    assert [event.event for event in events if event.event != "progress"] == ["started", "checking", "done"]
    assert (
        got.bytes
        == events[-1].done
        == events[-1].total
        == sum(size_of(hub, name) for name in WANTED - {"trellis-base.manifest"})
    )
    assert hub.sent[SHARD] == size_of(hub, SHARD)
    assert [(base.source, base.revision, base.bytes) for base in cached(cache)] == [(MODEL, COMMIT, got.bytes)]

    asked = len(hub.calls)
    assert fetch(MODEL, COMMIT, cache, options=QUICK).was_present
    assert len(hub.calls) == asked  # a commit is what it is
    assert fetch(MODEL, "", cache, options=QUICK).was_present
    assert [path for path in hub.calls[asked:] if "resolve" in path] == []

    monkeypatch.setenv("TRELLIS_BASE_CACHE", str(cache))
    asked = len(hub.calls)
    facts = read_base(MODEL, COMMIT)
    assert (facts.path, facts.revision, facts.has_chat_template) == (got.path, COMMIT, True)
    assert read_base(MODEL) == facts
    assert len(hub.calls) == asked


def test_a_newer_revision_stands_beside_the_older_one(hub: Hub, cache: Path, tmp_path: Path) -> None:
    fetch(MODEL, "main", cache, options=QUICK)
    hub.commit, hub.folders[MODEL] = "f" * 40, write_base(tmp_path / "newer", seed=1)
    assert fetch(MODEL, "", cache, options=QUICK).revision == "f" * 40
    assert sorted(base.revision for base in cached(cache)) == [COMMIT, "f" * 40]
    assert locate(MODEL, "", cache) == locate(MODEL, "f" * 40, cache)
    assert locate(MODEL, COMMIT, cache) is not None


def test_cut_connections_busy_answers_and_wrong_bytes_are_overcome(hub: Hub, cache: Path) -> None:
    hub.cuts, hub.busy = [300_000, 200_000, 100], 0
    hub.wrong["config.json"] = 2
    events: list[Event] = []
    fetch(MODEL, "", cache, events.append, QUICK)
    assert verify(MODEL, "", cache) == []
    assert sum(event.event == "retrying" for event in events) >= 3
    shards = ("model-1-of-2.safetensors", "model-2-of-2.safetensors")
    assert sum(hub.sent[name] for name in shards) <= sum(size_of(hub, name) for name in shards) + 3 * (1 << 16)


def test_bytes_that_stay_wrong_are_never_kept(hub: Hub, cache: Path) -> None:
    hub.wrong[SHARD] = 100
    with pytest.raises(PassingError, match=r"model-1-of-2.safetensors .* came 3 times with other bytes"):
        fetch(MODEL, "", cache, options=QUICK)
    assert locate(MODEL, "", cache) is None
    hub.wrong.clear()
    fetch(MODEL, "", cache, options=QUICK)
    assert hub.sent["config.json"] == size_of(hub, "config.json")  # what was right is not asked for again


def test_a_killed_fetch_looks_like_nothing_and_goes_on_where_it_was(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.hold_after = 600_000
    process = start(cache)
    assert hub.held.wait(20)
    while sum(path.stat().st_size for path in cache.glob("*/.part-*/*.safetensors")) < 550_000:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert locate(MODEL, "", cache) is None
    assert list(cached(cache)) == []
    how_far = underway(MODEL, cache)
    assert how_far is not None
    assert str(how_far).endswith("are here: it is being fetched")
    monkeypatch.setenv("TRELLIS_BASE_CACHE", str(cache))
    with pytest.raises(BaseModelNotFetchedError, match=r"of 1.8 MiB are here: it is being fetched"):
        read_base(MODEL)

    hub.hold_after = 0
    hub.asked.clear()
    hub.go_on.set()
    done = start(cache, "--lease-seconds", "0.2")
    out, err = done.communicate(timeout=30)
    assert done.returncode == 0, err
    assert json.loads(out)["revision"] == COMMIT
    assert json.loads(err.splitlines()[-1])["event"] == "done"
    whole = sum(size_of(hub, name) for name in WANTED - {"trellis-base.manifest"})
    assert sum(hub.asked.values()) < whole - 550_000
    assert verify(MODEL, "", cache) == []
    assert list(cache.glob("*/.*")) == []


def test_two_fetchers_at_once_ask_for_each_byte_once(hub: Hub, cache: Path) -> None:
    hub.hold_after = 100_000
    first = start(cache, "--lease-seconds", "5")
    assert hub.held.wait(20)
    second = start(cache, "--lease-seconds", "5")
    assert second.stderr is not None
    told = json.loads(second.stderr.readline())
    assert told["event"] == "waiting"
    assert "Another process fetches acme/llama" in told["message"]
    hub.go_on.set()
    results = [json.loads(process.communicate(timeout=30)[0]) for process in (first, second)]
    assert [result["was_present"] for result in results] == [False, True]
    assert hub.sent[SHARD] == size_of(hub, SHARD)


def test_who_is_told_to_end_gives_the_fetch_up_at_once(hub: Hub, cache: Path) -> None:
    hub.hold_after = 100_000
    process = start(cache)
    assert hub.held.wait(20)
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 143
    assert list(cache.glob("*/.lease-*")) == []
    hub.hold_after = 0
    hub.go_on.set()
    assert fetch(MODEL, "", cache, options=FetchOptions(sleep=refuse)).revision == COMMIT  # nobody is waited for


def refuse(_seconds: float) -> None:
    raise AssertionError("It waited.")


@pytest.mark.parametrize(
    ("source", "revision", "token", "sentence"),
    [
        ("acme/none", "", "", "no model on the hub, or a private one and it needs a token"),
        (MODEL, "v9", "", "no revision 'v9'"),
        ("acme/gated", "", "", r"gated.*no HF_TOKEN is given"),
        ("acme/gated", "", "hf_other", r"gated.*the account of HF_TOKEN has not"),
        ("not a model", "", "", "no folder here"),
    ],
)
def test_what_can_not_be_had_is_said(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, source: str, revision: str, token: str, sentence: str
) -> None:
    hub.folders["acme/gated"], hub.gated["acme/gated"] = hub.folders[MODEL], "hf_right"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(BaseCacheError, match=sentence) as caught:
        fetch(source, revision, cache, options=QUICK)
    assert not isinstance(caught.value, PassingError)


def test_a_token_opens_a_gated_model(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated[MODEL] = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert fetch(MODEL, "", cache, options=QUICK).revision == COMMIT


def test_without_a_network_the_cache_is_enough(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = FetchOptions(offline=True)
    with pytest.raises(PassingError, match="The network must not be used, and acme/llama is not in the cache"):
        fetch(MODEL, "", cache, options=offline)
    fetch(MODEL, "", cache, options=QUICK)
    asked = len(hub.calls)
    assert fetch(MODEL, "", cache, options=offline).revision == COMMIT
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(MODEL, "main", cache, options=QUICK).was_present
    assert len(hub.calls) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.busy = 1
    assert fetch(MODEL, "", cache, options=QUICK).was_present
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch(MODEL, "", cache, options=QUICK).was_present
    with pytest.raises(PassingError, match="can't be reached"):
        fetch("acme/other", "", cache, options=QUICK)


def test_a_volume_that_is_too_small_is_said_before_the_weights_come(hub: Hub, cache: Path) -> None:
    small = FetchOptions(free_bytes=lambda _folder: 65 << 20)
    hub.folders[MODEL] = write_base(cache.parent / "large", shards=2, rows=120_000)
    with pytest.raises(PassingError, match=r"needs 3\.7 MiB more, .* has 65 MiB free\. Enlarge it"):
        fetch(MODEL, "", cache, options=small)
    assert hub.sent[SHARD] == 0


def test_damage_is_found_and_mended(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(MODEL, "", cache, options=QUICK).path
    monkeypatch.setenv("TRELLIS_BASE_CACHE", str(cache))
    read_base(MODEL)
    data = bytearray((folder / SHARD).read_bytes())
    data[70_000] ^= 1  # between two samples
    (folder / SHARD).write_bytes(data)
    assert verify(MODEL, "", cache) == [f"{SHARD} has other bytes than were fetched."]
    hub.sent.clear()
    mended = start(cache, "--verify")
    out, err = mended.communicate(timeout=30)
    assert (mended.returncode, json.loads(out)["was_present"]) == (0, False), err
    assert set(hub.sent) == {SHARD}
    assert verify(MODEL, "", cache) == []

    os.truncate(folder / SHARD, 1000)
    with pytest.raises(BaseModelError, match=r"model-1-of-2.safetensors' has 1000 bytes, not .*Fetch the base again"):
        read_base(MODEL)
    assert not fetch(MODEL, "", cache, options=QUICK).was_present
    data[20] ^= 1
    (folder / SHARD).write_bytes(data)
    with pytest.raises(BaseModelError, match="no longer what was fetched"):
        read_base(MODEL)


def test_a_model_that_can_not_be_used_costs_no_weights(hub: Hub, cache: Path) -> None:
    (hub.folders[MODEL] / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(BaseCacheError, match=r"acme/llama can't be used: BertModel is not supported"):
        fetch(MODEL, "", cache, options=QUICK)
    assert hub.sent[SHARD] == 0


@pytest.mark.parametrize(("arguments", "code"), [(("--offline",), 75), (("--revision", "v9"), 2)])
def test_exit_codes_tell_a_job_whether_to_try_again(
    hub: Hub, cache: Path, arguments: tuple[str, ...], code: int
) -> None:
    process = start(cache, *arguments)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert json.loads(err.splitlines()[-1])["temporary"] is (code == 75)
