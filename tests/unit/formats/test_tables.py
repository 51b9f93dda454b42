import gzip
import io
import json
import sys
from typing import Any

import pytest

from trellis.formats import (
    MAX_LINE_BYTES,
    ChatExample,
    CompletionExample,
    Example,
    FileFormat,
    FormatError,
    LineError,
    PreferenceExample,
    open_rows,
    parse_row,
)

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def read_csv(text: str | bytes, file_format: FileFormat = FileFormat.CSV) -> list[Example | list[LineError]]:
    data = text.encode() if isinstance(text, str) else text
    return [parse_row(row) for row in open_rows(io.BytesIO(data), file_format)]


def code(found: Example | list[LineError]) -> str:
    assert isinstance(found, list)
    return found[0].code


def test_csv_of_prompt_and_completion() -> None:
    text = '\ufeffprompt,completion,weight\r\n"a, ""b""",c,\r\n"two\nlines",d,0.5\r\n'
    assert read_csv(text) == [CompletionExample('a, "b"', "c"), CompletionExample("two\nlines", "d", 0.5)]
    assert read_csv(gzip.compress(text.encode()), FileFormat.CSV_GZ) == read_csv(text)


def test_csv_lines_are_those_of_the_file() -> None:
    rows = list(open_rows(io.BytesIO(b'text\n"a\nb"\n\nc\n'), FileFormat.CSV))
    assert [(row.line, row.empty) for row in rows] == [(2, False), (4, True), (5, False)]


def test_csv_cells_of_messages_and_tools_hold_json() -> None:
    cell = json.dumps(MESSAGES).replace('"', '""')
    (found,) = read_csv(f'messages,tools,parallel_tool_calls\n"{cell}",,true\n')
    assert isinstance(found, ChatExample)
    assert [turn.content for turn in found.messages] == ["hi", "hello"]
    assert found.tools is None
    assert found.parallel_tool_calls is True


def test_csv_of_preferences_takes_text_or_messages() -> None:
    cell = json.dumps(MESSAGES[1:]).replace('"', '""')
    found = read_csv(f'prompt,chosen,rejected\nhi,good,bad\nhi,"{cell}",bad\n')
    assert all(isinstance(example, PreferenceExample) for example in found)
    assert [example.preferred.content for example in found if isinstance(example, PreferenceExample)] == [
        "good",
        "hello",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt,completion\na\n", "invalid_csv"),
        ('prompt,completion\na,"b" c\n', "invalid_csv"),
        ('prompt,completion\na,"b\n', "invalid_csv"),
        ("prompt,completion\na,\n", "missing_completion"),
        ("prompt,completion,weight\na,b,heavy\n", "invalid_weight"),
        ("prompt,completion,weight\na,b,nan\n", "invalid_weight"),
        ("messages\n[1\n", "invalid_json"),
        ("messages,parallel_tool_calls\n[],maybe\n", "missing_messages_list"),
    ],
)
def test_a_bad_record_is_an_error_of_its_line(text: str, expected: str) -> None:
    assert code(read_csv(text)[0]) == expected


def test_csv_that_is_not_utf_8() -> None:
    assert code(read_csv(b"text\n\xff\xfe\n")[0]) == "invalid_encoding"


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "text,text\n1,2\n", 'te"xt\n"a\n'])
def test_a_header_that_names_no_columns_is_refused(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_csv(text)
    assert caught.value.code == "invalid_header"


def test_an_unclosed_quote_cannot_fill_the_memory() -> None:
    lines = ["text", '"open', *["x" * 1000] * (MAX_LINE_BYTES // 1000 + 10), "good"]
    found = read_csv("\n".join(lines) + "\n")
    assert code(found[0]) == "line_too_long"
    assert not isinstance(found[-1], list)


def parquet(rows: list[dict[str, Any]]) -> io.BytesIO:
    arrow = pytest.importorskip("pyarrow")
    stream = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), stream)
    stream.seek(0)
    return stream


def test_parquet_nulls_are_keys_that_are_not_there() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    answered = {"role": "tool", "content": "42", "tool_call_id": "1"}
    stream = parquet([{"messages": [*MESSAGES, asked, answered], "id": 7}, {"messages": MESSAGES, "id": 8}])
    first, second = (parse_row(row) for row in open_rows(stream, FileFormat.PARQUET))
    assert isinstance(first, ChatExample)
    assert isinstance(second, ChatExample)
    assert first.messages[2].tool_calls == tuple(calls)
    assert second.messages[0].tool_calls is None


def test_parquet_cells_may_hold_json_text() -> None:
    (row,) = open_rows(parquet([{"messages": json.dumps(MESSAGES)}]), FileFormat.PARQUET)
    found = parse_row(row)
    assert isinstance(found, ChatExample)
    assert [(message.role, message.content) for message in found.messages] == [("user", "hi"), ("assistant", "hello")]


def test_parquet_rows_are_numbered_and_bounded() -> None:
    rows = list(open_rows(parquet([{"text": "a"}, {"text": "x" * (MAX_LINE_BYTES + 1)}]), FileFormat.PARQUET))
    assert [row.line for row in rows] == [1, 2]
    assert rows[1].problem is not None
    assert rows[1].problem.code == "line_too_long"


def test_parquet_without_a_column_of_a_dataset() -> None:
    with pytest.raises(FormatError) as caught:
        list(open_rows(parquet([{"question": "a"}]), FileFormat.PARQUET))
    assert caught.value.code == "invalid_header"


def test_damaged_parquet_is_corrupt() -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(FormatError) as caught:
        list(open_rows(io.BytesIO(b"PAR1 nonsense PAR1"), FileFormat.PARQUET))
    assert caught.value.code == "corrupt_file"


def test_parquet_damaged_in_the_middle_keeps_its_good_rows() -> None:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    table = arrow.Table.from_pylist([{"text": f"line {index} " * 50} for index in range(1000)])
    writer.write_table(table, stream, row_group_size=100, use_dictionary=False, compression="gzip")
    data = bytearray(stream.getvalue())
    middle = len(data) // 2
    data[middle : middle + 200] = b"\xff" * 200
    rows = list(open_rows(io.BytesIO(bytes(data)), FileFormat.PARQUET))
    assert rows[0].problem is None
    assert rows[-1].problem is not None
    assert rows[-1].problem.code == "corrupt_file"


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(FormatError, match="pip install pyarrow"):
        list(open_rows(io.BytesIO(b"PAR1"), FileFormat.PARQUET))
