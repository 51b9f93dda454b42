"""What is wrong is refused with a reason, and nothing of it is kept."""

import gzip
import io
import json
import math
import random
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.e2e import lines, tuning
from tests.e2e.conftest import Team
from tests.e2e.platform import Platform

import trellis
from trellis.client.types import DatasetVersionState

PART_BYTES = 8 * 1024 * 1024
"""So much of an upload is kept at a time."""


@pytest.fixture(scope="module")
def client(submitted: tuple[Team, Team]) -> trellis.Client:
    """Jobs train meanwhile, which is the way of platforms."""
    return submitted[1].client


class Torn(io.BytesIO):
    """A file whose disk fails at some place, once it was hashed."""

    def __init__(self, data: bytes, at: int) -> None:
        super().__init__(data)
        self.at = at
        self.passes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == 0:
            self.passes += 1
        if self.passes > 1 and self.tell() >= self.at:
            raise OSError("the disk is gone")
        return super().read(size)


class Fickle(io.BytesIO):
    """A file that somebody changes once it was hashed."""

    passes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == 0:
            self.passes += 1
        data = super().read(size)
        return data if self.passes < 2 else data.replace(b"red", b"RED")


def test_a_cut_upload_goes_on_where_it_stopped(client: trellis.Client, tmp_path: Path) -> None:
    # Not JSON, which is found out only when all of it is there.
    data = random.Random(1).randbytes(PART_BYTES * 5 // 2).replace(b"\n", b" ")
    torn_at = PART_BYTES * 9 // 4
    with pytest.raises(trellis.TrellisError):
        client.datasets.upload(Torn(data, torn_at), dataset="torn", filename="torn.jsonl")
    assert list(client.datasets.list_versions("torn")) == []

    sent: list[int] = []
    whole = io.BytesIO(data)
    version = client.datasets.upload(
        whole, dataset="torn", filename="torn.jsonl", progress=lambda done, _all: sent.append(done)
    )
    assert PART_BYTES <= sent[0] <= torn_at, "what came is kept, also of a part that is not full"
    assert sent[-1] == version.size_bytes == len(data)
    assert version.state is DatasetVersionState.INVALID
    client.datasets.download(version.name, tmp_path / "torn.jsonl")
    assert (tmp_path / "torn.jsonl").read_bytes() == data


def test_bytes_that_are_not_the_announced_ones_are_not_kept(client: trellis.Client) -> None:
    file: BinaryIO = Fickle(lines.chat_lines(lines.COLOURS))
    with pytest.raises(trellis.DataLoss) as caught:
        client.datasets.upload(file, dataset="fickle", filename="fickle.jsonl")
    assert caught.value.reason == "CHECKSUM_MISMATCH"
    with pytest.raises(trellis.NotFound):
        client.datasets.get("fickle")


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("json", b"{'messages': []}\n", "invalid_json"),
        ("roles", lines.chat_line("a", "b").replace(b'"user"', b'"wizard"'), "unrecognized_role"),
        ("silent", b'{"messages": [{"role": "user", "content": "hello?"}]}\n', "example_missing_assistant_message"),
        ("untrained", lines.chat_line("a", "b").replace(b'"b"}', b'"b", "weight": 0}'), "no_trainable_tokens"),
        ("gzip", gzip.compress(lines.chat_lines(lines.FOODS))[:-20], "corrupt_file"),
    ],
)
def test_every_error_of_a_dataset_is_reported_and_no_job_takes_it(
    client: trellis.Client, name: str, data: bytes, code: str
) -> None:
    good = b"" if name == "gzip" else lines.chat_line("good?", "good")
    filename = f"{name}.jsonl.gz" if name == "gzip" else f"{name}.jsonl"
    version = client.datasets.upload(io.BytesIO(good + data), dataset=name, filename=filename)
    assert version.state is DatasetVersionState.INVALID
    report = client.datasets.report(version.name)
    assert code in {error.code for error in report.errors}
    assert not report.valid
    with pytest.raises(trellis.FailedPrecondition) as caught:
        client.jobs.create(name)
    assert caught.value.reason == "DATASET_INVALID"


def test_an_empty_file_is_refused_by_the_command_and_by_the_server(platform: Platform, client: trellis.Client) -> None:
    (platform.folder / "empty.jsonl").touch()
    key = {"TRELLIS_API_KEY": platform.admin_key, "TRELLIS_TENANT": "initech"}
    by_command, by_server = ("DATASET_INVALID", "The file has no lines."), ("INVALID_FIELD", "The file is empty.")
    for flag, (reason, said) in {"--check": by_command, "--no-check": by_server}.items():
        command = ("datasets", "upload", "empty.jsonl", "--dataset", "empty", flag, "--format", "json")
        done = platform.cli(*command, check=False, **key)
        assert done.returncode == 1, done.stdout
        error = json.loads(done.stderr)["error"]
        assert error["reason"] == reason
        assert said in error["message"]
    assert "empty" not in {dataset.name.rpartition("/")[2] for dataset in client.datasets.list()}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (trellis.TrainingSettings(lora=trellis.LoraSpec(rank=0)), "tuning_job.supervised.lora.rank"),
        (trellis.TrainingSettings(lora=trellis.LoraSpec(rank=10_000)), "tuning_job.supervised.lora.rank"),
        (trellis.TrainingSettings(learning_rate=math.nan), "tuning_job.supervised.learning_rate"),
        (trellis.TrainingSettings(lora=trellis.LoraSpec(target_modules=("nose",))), "lora.target_modules"),
        (trellis.TrainingSettings(context_length=1 << 30), "tuning_job.supervised.context_length"),
    ],
)
def test_a_wrong_setting_is_named(client: trellis.Client, wrong: trellis.TrainingSettings, field: str) -> None:
    with pytest.raises(trellis.InvalidArgument) as caught:
        client.jobs.create(tuning.DATASET, supervised=wrong)
    assert [violation.field for violation in caught.value.violations if field in violation.field]
    assert field.rpartition(".")[2] in str(caught.value)


def test_all_wrong_settings_are_named_at_once(client: trellis.Client) -> None:
    wrong = trellis.TrainingSettings(lora=trellis.LoraSpec(rank=0), epochs=0, learning_rate=math.inf)
    with pytest.raises(trellis.InvalidArgument) as caught:
        client.jobs.create(tuning.DATASET, supervised=wrong, job_id="../up")
    fields = {violation.field.rpartition(".")[2] for violation in caught.value.violations}
    assert {"rank", "epochs", "learning_rate", "tuning_job_id"} <= fields


def test_an_unknown_base_or_dataset_is_said(client: trellis.Client) -> None:
    with pytest.raises(trellis.FailedPrecondition) as caught:
        client.jobs.create(tuning.DATASET, base_model="no-such-base")
    assert caught.value.reason == "BASE_MODEL_UNAVAILABLE"
    with pytest.raises(trellis.NotFound):
        client.jobs.create("no-such-dataset")


@pytest.mark.parametrize("name", ["tenants/initech/datasets/../../globex", "tenants/initech/../globex/datasets/boxes"])
def test_a_name_with_dots_leads_nowhere(client: trellis.Client, name: str) -> None:
    for call in (client.datasets.get, client.datasets.report, client.jobs.create, client.generate):
        with pytest.raises((trellis.InvalidArgument, trellis.PermissionDenied)):
            call(name) if call != client.generate else client.generate(name, "hello?")
