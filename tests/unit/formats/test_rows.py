import gzip
import io
import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import BinaryIO

from trellis.formats import MAX_LINE_BYTES, FileFormat, RawRow, open_rows, parse_row

GOOD = b'{"text": "a"}'


def rows(data: bytes, file_format: FileFormat = FileFormat.JSONL) -> list[RawRow]:
    return list(open_rows(io.BytesIO(data), file_format))


class Endless(io.RawIOBase):
    """A file of any size that is never in memory as a whole."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def test_lines_are_numbered_from_one_and_blank_ones_are_known() -> None:
    found = rows(GOOD + b"\n\n  \n" + GOOD)
    assert [(row.line, row.empty) for row in found] == [(1, False), (2, True), (3, True), (4, False)]


def test_byte_order_mark_and_crlf_are_no_part_of_the_line() -> None:
    assert [row.data for row in rows(b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD + b"\r\n")] == [GOOD, GOOD]


def test_gzip_is_unpacked_in_several_members() -> None:
    packed = gzip.compress(GOOD + b"\n") + gzip.compress(GOOD + b"\n")
    assert [row.data for row in rows(packed, FileFormat.JSONL_GZ)] == [GOOD, GOOD]


def test_a_cut_gzip_file_is_said_to_be_corrupt_after_its_good_lines() -> None:
    text = b"".join(json.dumps({"text": random.Random(i).random()}).encode() + b"\n" for i in range(50_000))
    found = rows(gzip.compress(text)[:-1000], FileFormat.JSONL_GZ)
    assert len(found) > 100
    assert found[-1].problem is not None
    assert found[-1].problem.code == "corrupt_file"
    assert all(row.problem is None for row in found[:-1])


def test_what_is_no_gzip_is_corrupt() -> None:
    (row,) = rows(b"\x1f\x8bnonsense", FileFormat.JSONL_GZ)
    assert row.problem is not None
    assert row.problem.code == "corrupt_file"


def test_utf_16_is_told_once() -> None:
    (row,) = rows('{"text": "a"}\n{"text": "b"}\n'.encode("utf-16"))
    assert row.problem is not None
    assert (row.problem.code, row.problem.line) == ("invalid_encoding", 1)


def test_a_line_that_is_too_long_is_skipped_and_the_next_is_read() -> None:
    found = rows(b"x" * (MAX_LINE_BYTES + 1) + b"\n" + GOOD + b"\n" + b"y" * (MAX_LINE_BYTES * 2))
    assert [row.problem.code if row.problem else None for row in found] == ["line_too_long", None, "line_too_long"]
    assert [row.line for row in found] == [1, 2, 3]


def test_the_longest_line_that_may_be_is_read() -> None:
    line = b'{"text": "' + b"x" * (MAX_LINE_BYTES - 12) + b'"}'
    assert len(line) == MAX_LINE_BYTES
    for ending in (b"", b"\n"):
        (row,) = rows(line + ending)
        assert row.problem is None


def peak_of(stream: BinaryIO, file_format: FileFormat) -> tuple[int, int]:
    tracemalloc.start()
    count = 0
    for row in open_rows(stream, file_format):
        count += 1
        assert row.problem is not None or not isinstance(parse_row(row), list)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, peak


def test_memory_does_not_grow_with_the_file() -> None:
    line = b'{"text": "' + b"x" * 20_000 + b'"}\n'
    stream = io.BufferedReader(Endless(line for _ in range(5_000)))  # type: ignore[type-var]
    count, peak = peak_of(stream, FileFormat.JSONL)
    assert count == 5_000
    assert peak < 2 * 1024 * 1024, "100 MB were read"


def test_a_gzip_bomb_is_one_line_that_is_too_long() -> None:
    packed = gzip.compress(b"\0" * (200 * 1024 * 1024))
    count, peak = peak_of(io.BytesIO(packed), FileFormat.JSONL_GZ)
    assert count == 1
    assert peak < 6 * MAX_LINE_BYTES
