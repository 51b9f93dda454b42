import gzip

import pytest

from trellis.formats import FileFormat, FormatError, detect_format

GZIPPED = gzip.compress(b'{"text": "a"}\n', mtime=0)  # the same bytes, and so the same test names, in every process


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.jsonl", b'{"text": "a"}', FileFormat.JSONL),
        ("A.JSONL", b'\xef\xbb\xbf{"text": "a"}', FileFormat.JSONL),
        ("a.ndjson", b"", FileFormat.JSONL),
        ("a.json", b'{"text": "a"}', FileFormat.JSONL),
        ("a", b'  {"text": "a"}', FileFormat.JSONL),
        ("a.jsonl.gz", GZIPPED, FileFormat.JSONL_GZ),
        ("a.jsonl", GZIPPED, FileFormat.JSONL_GZ),
        ("a.csv.gz", GZIPPED, FileFormat.CSV_GZ),
        ("a.csv", b"prompt,completion\n", FileFormat.CSV),
        ("a.csv", b"[x],text\n", FileFormat.CSV),
        ("a.parquet", b"PAR1....", FileFormat.PARQUET),
        ("a.jsonl", b"PAR1....", FileFormat.PARQUET),
    ],
)
def test_the_bytes_are_believed_before_the_name(name: str, head: bytes, expected: FileFormat) -> None:
    assert detect_format(name, head) is expected


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("notes.txt", b"hello", "no known format"),
        ("", b"\x00\x01", "The file is of no known format"),
        ("a.jsonl", b'[{"text": "a"}]', "JSON array"),
        ("a.zip", b"PK\x03\x04", "ZIP"),
        ("a.parquet", b"{}", "does not hold Parquet"),
        ("a.jsonl.gz", b"{}", "not compressed"),
    ],
)
def test_what_is_no_dataset_is_refused(name: str, head: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        detect_format(name, head)
    assert caught.value.code == "unsupported_format"
