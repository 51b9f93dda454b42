"""The whole job, inside of the test's own process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tiny_llama import write_tiny_llama

from trellis.artifacts import ArtifactError, Manifest, check_adapter_folder
from trellis.bases import BaseModelError, read_base
from trellis.objects import ObjectStore
from trellis.spec import Lora, TrainSpec
from trellis.v1.worker_pb2 import (
    CompleteAttemptRequest,
    ReportAttemptRequest,
    ReportAttemptResponse,
    StartAttemptResponse,
)
from trellis_jobs import artifact
from trellis_jobs.failure import JobFailedError
from trellis_jobs.job import run
from trellis_jobs.model import Base
from trellis_jobs.reporter import Reporter

MakeSpec = Callable[..., TrainSpec]
RunJob = Callable[..., CompleteAttemptRequest]


@pytest.fixture
def reports() -> list[ReportAttemptRequest]:
    return []


@pytest.fixture
def run_job(store: ObjectStore, reports: list[ReportAttemptRequest]) -> RunJob:
    def send(request: ReportAttemptRequest) -> ReportAttemptResponse:
        reports.append(request)
        return ReportAttemptResponse()

    def run_it(spec: TrainSpec, **changes: object) -> CompleteAttemptRequest:
        work = StartAttemptResponse(
            tuning_job="tenants/a/tuningJobs/j",
            attempt=1,
            train_spec_json=spec.to_json(),
            store_url=store.url,
            training_key="data/train.jsonl",
            checkpoint_prefix="checkpoints",
            adapter_prefix="adapter",
        )
        work.MergeFrom(StartAttemptResponse(**changes))  # type: ignore[arg-type]
        reporter = Reporter(send, 1, 60, pause=0.001)
        try:
            return run(work, reporter, "1.2.3")
        finally:
            reporter.close()

    return run_it


def test_equal_jobs_give_equal_adapters(make_spec: MakeSpec, run_job: RunJob, store: ObjectStore) -> None:
    spec = make_spec(lora=Lora(rank=4, alpha=8.0, dropout=0.1))
    first, second = run_job(spec), run_job(spec)
    assert first.adapter_digest == second.adapter_digest
    assert run_job(replace(spec, seed=1)).adapter_digest != first.adapter_digest
    manifest = Manifest.from_json(store.read_bytes("adapter/manifest.json"))
    assert manifest.code_version == "1.2.3"
    assert manifest.tuning_job == "tenants/a/tuningJobs/j"
    assert b"/" not in store.read_bytes("adapter/adapter_config.json")  # no path of this machine leaves it


def test_a_job_goes_on_from_its_checkpoint(
    make_spec: MakeSpec, run_job: RunJob, reports: list[ReportAttemptRequest]
) -> None:
    spec = make_spec(checkpoint_steps=4)
    whole = run_job(spec)
    seen = {point.step: point.values["train_loss"] for found in reports for point in found.metrics if point.step}
    reports.clear()
    key = "checkpoints/step-00000004-attempt-1"
    resumed = run_job(spec, resume_key=key, resume_step=4)
    again = {point.step: point.values["train_loss"] for found in reports for point in found.metrics if point.step}
    assert sorted(again) == [5, 6, 7, 8, 9]
    assert {step: seen[step] for step in again} == again
    assert resumed.adapter_digest == whole.adapter_digest
    assert resumed.trained_tokens == whole.trained_tokens
    assert resumed.base_evaluation == whole.base_evaluation


def test_a_lost_checkpoint_is_told_and_training_begins_anew(
    make_spec: MakeSpec, run_job: RunJob, reports: list[ReportAttemptRequest]
) -> None:
    spec = make_spec(max_steps=2)
    whole = run_job(spec)
    resumed = run_job(replace(spec), resume_key="elsewhere/step-00000001-attempt-1", resume_step=1)
    assert resumed.adapter_digest == whole.adapter_digest
    assert "No checkpoint can be read, so training begins anew." in [
        event.message for found in reports for event in found.events
    ]


def test_another_base_than_the_registered_one_is_refused(make_spec: MakeSpec, run_job: RunJob) -> None:
    with pytest.raises(BaseModelError, match="no longer the base model"):
        run_job(make_spec(base_revision="sha256:" + "0" * 64))
    with pytest.raises(JobFailedError, match="tokenizer or chat template"):
        run_job(make_spec(tokenizer_digest="0" * 64))


def test_an_adapter_that_is_not_the_trained_one_is_refused(
    make_spec: MakeSpec, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, store: ObjectStore
) -> None:
    stored = artifact.AdapterObjects.download

    def swapped(self: artifact.AdapterObjects, folder: Path) -> None:
        stored(self, folder)
        path = folder / "adapter_model.safetensors"
        data = bytearray(path.read_bytes())
        data[-400:] = b"\x00\x00\x80\x3f" * 100
        path.write_bytes(data)

    monkeypatch.setattr(artifact.AdapterObjects, "download", swapped)
    with pytest.raises(ArtifactError, match="does not give the logits of the trained one"):
        run_job(make_spec(max_steps=3))
    assert not store.exists("adapter/manifest.json")


def test_an_adapter_that_changes_nothing_is_refused(make_spec: MakeSpec, run_job: RunJob) -> None:
    with pytest.raises(ArtifactError, match="does not change what the base answers"):
        run_job(make_spec(max_steps=1, learning_rate=1e-9, lora=Lora(rank=4, alpha=1e-3)))


def test_the_adapter_fits_only_its_own_base(
    make_spec: MakeSpec, run_job: RunJob, store: ObjectStore, base: Base, tmp_path: Path
) -> None:
    run_job(make_spec(max_steps=2))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        store.get_file(f"adapter/{name}", tmp_path / "adapter" / name)
    assert check_adapter_folder(tmp_path / "adapter", base.facts).target_modules == base.facts.linear_names
    other = write_tiny_llama(tmp_path / "other", hidden=16)
    with pytest.raises(ArtifactError) as raised:
        check_adapter_folder(tmp_path / "adapter", read_base(str(other)))
    assert raised.value.code == "wrong_shape"
