"""From files to lines."""

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
from trellis_jobs.data import read_data
from trellis_jobs.failure import JobFailedError
from trellis_jobs.model import Base

MakeSpec = Callable[..., TrainSpec]


def test_the_split_is_the_same_however_lines_are_ordered(make_spec: MakeSpec, store: ObjectStore, base: Base) -> None:
    lines = store.read_bytes("data/train.jsonl").splitlines()
    store.put_bytes("data/turned.jsonl.gz", gzip.compress(b"\n".join(reversed(lines))))
    first = read_data(store, make_spec(held_out_fraction=0.25), "data/train.jsonl", "", base.tokenizer)
    second = read_data(store, make_spec(held_out_fraction=0.25), "data/turned.jsonl.gz", "", base.tokenizer)
    assert (len(first.train), len(first.held_out)) == (18, 6)
    assert sorted(25 - line for line in second.held_out.lines) == list(first.held_out.lines)


def test_a_validation_file_is_held_out_whole(make_spec: MakeSpec, store: ObjectStore, base: Base) -> None:
    store.put_bytes("data/valid.jsonl", chat_line("why?", "so").encode())
    data = read_data(store, make_spec(), "data/train.jsonl", "data/valid.jsonl", base.tokenizer)
    assert (len(data.train), len(data.held_out)) == (24, 1)


def test_lines_that_are_cut_to_nothing_are_left_out_and_told(
    make_spec: MakeSpec, store: ObjectStore, base: Base
) -> None:
    data = read_data(store, make_spec(context_length=16, held_out_fraction=0.0), "data/train.jsonl", "", base.tokenizer)
    assert 0 < len(data.train) < 24
    assert len(data.warnings) == 2
    assert "cut" in data.warnings[0]
    assert "left out" in data.warnings[1]
    with pytest.raises(JobFailedError, match="No line has a token to train on") as raised:
        read_data(store, make_spec(context_length=4), "data/train.jsonl", "", base.tokenizer)
    assert raised.value.reason is Reason.DATASET_INVALID


def test_wrong_files_are_refused(make_spec: MakeSpec, store: ObjectStore, base: Base) -> None:
    with pytest.raises(JobFailedError) as raised:
        read_data(store, make_spec(training_sha256="0" * 64), "data/train.jsonl", "", base.tokenizer)
    assert raised.value.reason is Reason.CHECKSUM_MISMATCH
    store.put_bytes("data/bad.jsonl", b'{"messages": []}')
    with pytest.raises(InvalidLines):
        read_data(store, make_spec(), "data/bad.jsonl", "", base.tokenizer)
    preference = (
        b'{"input": {"messages": [{"role": "user", "content": "q"}]}, '
        b'"preferred_output": [{"role": "assistant", "content": "a"}], '
        b'"non_preferred_output": [{"role": "assistant", "content": "b"}]}'
    )
    store.put_bytes("data/preferences.jsonl", preference)
    with pytest.raises(JobFailedError, match="preferences"):
        read_data(store, make_spec(), "data/preferences.jsonl", "", base.tokenizer)


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
    make_spec: MakeSpec, store: ObjectStore, base: Base, file_format: str, data: bytes
) -> None:
    store.put_bytes("datasets/x/data", data)
    spec = make_spec(held_out_fraction=0.0, training_format=file_format)
    assert len(read_data(store, spec, "datasets/x/data", "", base.tokenizer).train) == 2
