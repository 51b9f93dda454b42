"""From files to lines, whatever their format."""

import gzip
import io
from collections.abc import Callable

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.tiny_llama import chat_line

from trellis.errors import Reason
from trellis.formats import InvalidLines
from trellis.objects import ObjectStore
from trellis.spec import TrainSpec
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.failure import JobFailedError
from trellis_jobs.methods.open import Data, read_items
from trellis_jobs.model import Base

MakeSpec = Callable[..., TrainSpec]
Read = Callable[..., Data]


@pytest.fixture
def read(store: ObjectStore, make_spec: MakeSpec, base: Base) -> Read:
    def read(key: str = "data/train.jsonl", valid: str = "", **spec: object) -> Data:
        work = StartAttemptResponse(training_key=key, validation_key=valid)
        return read_items(store, make_spec(**spec), work, base.tokenizer)

    return read


def lines_of(data: Data) -> list[int]:
    return sorted(data.held_out.line(index) for index in range(len(data.held_out)))


def test_the_split_is_the_same_however_lines_are_ordered(read: Read, store: ObjectStore) -> None:
    lines = store.read_bytes("data/train.jsonl").splitlines()
    store.put_bytes("data/turned.jsonl.gz", gzip.compress(b"\n".join(reversed(lines))))
    first, second = read(held_out_fraction=0.25), read("data/turned.jsonl.gz", held_out_fraction=0.25)
    assert (len(first.train), len(first.held_out)) == (18, 6)
    assert sorted(25 - line for line in lines_of(second)) == lines_of(first)


def test_a_validation_file_is_held_out_whole(read: Read, store: ObjectStore) -> None:
    store.put_bytes("data/valid.jsonl", chat_line("why?", "so").encode())
    data = read(valid="data/valid.jsonl")
    assert (len(data.train), len(data.held_out), len(data.answers)) == (24, 1, 1)


def test_lines_that_are_cut_to_nothing_are_left_out_and_told(read: Read) -> None:
    data = read(context_length=16, held_out_fraction=0.0)
    assert 0 < len(data.train) < 24
    assert len(data.warnings) == 2
    assert "cut" in data.warnings[0]
    assert "left out" in data.warnings[1]
    with pytest.raises(JobFailedError, match="No line has a token to train on") as raised:
        read(context_length=4)
    assert raised.value.reason is Reason.DATASET_INVALID


def test_wrong_files_are_refused(read: Read, store: ObjectStore) -> None:
    with pytest.raises(JobFailedError) as raised:
        read(training_sha256="0" * 64)
    assert raised.value.reason is Reason.CHECKSUM_MISMATCH
    store.put_bytes("data/bad.jsonl", b'{"messages": []}')
    with pytest.raises(InvalidLines):
        read("data/bad.jsonl")


def csv_file() -> bytes:
    return b"prompt,completion\nwhy 1,because\nwhy 2,so\n"


def parquet_file() -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pa.table({"prompt": ["why 1", "why 2"], "completion": ["because", "so"]}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("file_format", "data"),
    [
        ("csv", csv_file()),
        ("csv.gz", gzip.compress(csv_file(), mtime=0)),
        ("parquet", parquet_file()),
    ],
    ids=["csv", "csv.gz", "parquet"],
)
def test_the_format_is_the_versions_whatever_its_key_looks_like(
    read: Read, store: ObjectStore, file_format: str, data: bytes
) -> None:
    store.put_bytes("datasets/x/data", data)
    assert len(read("datasets/x/data", held_out_fraction=0.0, training_format=file_format).train) == 2
