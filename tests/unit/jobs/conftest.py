"""A tiny base on disk, and encoded lines for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tiny_llama import chat_line, write_tiny_llama

from trellis.objects import ObjectStore
from trellis.spec import Lora, TrainSpec
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.device import Device
from trellis_jobs.methods.open import Data, read_items
from trellis_jobs.model import Base, open_base

ANSWERS = ("red", "a much longer answer", "blue", "no")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    store = ObjectStore.open(str(tmp_path / "store"))
    lines = [chat_line("why " * (1 + number % 5) + str(number), ANSWERS[number % 4]) for number in range(24)]
    store.put_bytes("data/train.jsonl", "\n".join(lines).encode())
    return store


@pytest.fixture
def make_spec(base_folder: Path) -> Callable[..., TrainSpec]:
    def make(**changes: object) -> TrainSpec:
        values = {
            "base_model": "baseModels/tiny",
            "base_source": str(base_folder),
            "base_revision": "",
            "tokenizer_digest": "",
            "training_dataset": "tenants/a/datasets/b/versions/c",
            "training_sha256": "",
            "context_length": 64,
            "lora": Lora(rank=4, alpha=8.0),
            "batch_size": 8,
            "learning_rate": 1e-2,
            "precision": "fp32",
            "max_evaluation_lines": 2,
        }
        return TrainSpec(**{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def device() -> Device:
    return Device(torch.device("cpu"), torch.float32)


@pytest.fixture
def base(make_spec: Callable[..., TrainSpec]) -> Base:
    return open_base(make_spec())


@pytest.fixture
def data(store: ObjectStore, make_spec: Callable[..., TrainSpec], base: Base) -> Data:
    return read_items(store, make_spec(), StartAttemptResponse(training_key="data/train.jsonl"), base.tokenizer)
