import io
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trellis.formats import (
    CODES,
    ChatExample,
    CompletionExample,
    FileFormat,
    FormatError,
    InvalidLines,
    Kind,
    Message,
    PreferenceExample,
    RawRow,
    TextExample,
    parse_row,
    read_examples,
    read_row,
)

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def parse(value: Any, kind: Kind | None = None) -> Any:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_row(RawRow(7, data), kind)


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def found(value: Any, kind: Kind | None = None) -> list[tuple[str, str]]:
    errors = parse(value, kind)
    assert isinstance(errors, list), errors
    assert all(error.line == 7 and error.message.endswith(".") for error in errors)
    return [(error.path, error.code) for error in errors]


def preference(**more: Any) -> dict[str, Any]:
    good, bad = ANSWER, {"role": "assistant", "content": "go away"}
    return {"input": chat(USER), "preferred_output": [good], "non_preferred_output": [bad], **more}


BAD: list[tuple[Any, str, str]] = [
    (b"", "$", "empty_line"),
    (b"{", "$", "invalid_json"),
    (b'{"text": "a"} {}', "$", "invalid_json"),
    (b'{"text": "a", "weight": NaN}', "$", "invalid_json"),
    (b'{"text": "a", "weight": -Infinity}', "$", "invalid_json"),
    (b"[" * 100_000, "$", "invalid_json"),
    (b'{"text": "a", "x": ' + b"1" * 5000 + b"}", "$", "invalid_json"),
    (b'{"text": "\xff"}', "$", "invalid_encoding"),
    (b'{"text": "a", "text": "b"}', "$", "duplicate_key"),
    (b'{"text": "\\ud83d"}', "$.text", "invalid_unicode"),
    (b"null", "$", "data_type"),
    ([], "$", "data_type"),
    ("text", "$", "data_type"),
    ({}, "$", "missing_messages_list"),
    ({"conversations": []}, "$", "missing_messages_list"),
    ({"messages": []}, "$.messages", "missing_messages_list"),
    ({"messages": {}}, "$.messages", "data_type"),
    (chat(USER), "$.messages", "example_missing_assistant_message"),
    (chat(USER, ANSWER | {"weight": 0}), "$.messages", "no_trainable_tokens"),
    (chat(USER, ANSWER, "hi"), "$.messages[2]", "data_type"),
    (chat({"content": "hi"}, ANSWER), "$.messages[0]", "message_missing_key"),
    (chat({"role": "user"}, ANSWER), "$.messages[0]", "message_missing_key"),
    (chat(USER | {"role": "human"}, ANSWER), "$.messages[0].role", "unrecognized_role"),
    (chat(USER | {"role": ["user"]}, ANSWER), "$.messages[0].role", "data_type"),
    (chat(USER | {"role": 1}, ANSWER), "$.messages[0].role", "data_type"),
    (chat(USER | {"content": None}, ANSWER), "$.messages[0].content", "missing_content"),
    (chat(USER, ANSWER | {"content": ""}), "$.messages[1].content", "missing_content"),
    (chat(USER, ANSWER | {"content": []}), "$.messages[1].content", "missing_content"),
    (chat(USER | {"content": 1}, ANSWER), "$.messages[0].content", "data_type"),
    (chat(USER | {"content": [{"type": "image_url"}]}, ANSWER), "$.messages[0].content[0]", "data_type"),
    (chat(USER | {"mood": "good"}, ANSWER), "$.messages[0].mood", "message_unrecognized_key"),
    (chat(USER, ANSWER | {"function_call": {}}), "$.messages[1].function_call", "message_unrecognized_key"),
    (chat(USER | {"name": 1}, ANSWER), "$.messages[0].name", "data_type"),
    (chat(USER, ANSWER | {"weight": 0.5}), "$.messages[1].weight", "invalid_weight"),
    (chat(USER, ANSWER | {"weight": True}), "$.messages[1].weight", "invalid_weight"),
    (chat(USER, ANSWER, weight=-1), "$.weight", "invalid_weight"),
    (chat(USER, ANSWER, weight=10**400), "$.weight", "invalid_weight"),
    (chat(USER, ANSWER, weight="1"), "$.weight", "invalid_weight"),
    (chat(USER, ANSWER, weight=False), "$.weight", "invalid_weight"),
    (chat(USER, ANSWER, tools={}), "$.tools", "data_type"),
    (chat(USER, ANSWER, tools=[1]), "$.tools[0]", "invalid_tools"),
    (chat(USER, ANSWER, tools=[{"function": {}}]), "$.tools[0]", "invalid_tools"),
    (chat(USER, ANSWER, tools=[{"name": "f", "parameters": []}, {"name": "g", "parameters": [1]}]), "$.tools[1]",
     "invalid_tools"),
    (chat(USER, ANSWER, parallel_tool_calls="yes"), "$.parallel_tool_calls", "data_type"),
    (chat(USER, ANSWER | {"tool_calls": {}}), "$.messages[1].tool_calls", "data_type"),
    (chat(USER, ANSWER | {"tool_calls": [1]}), "$.messages[1].tool_calls[0]", "invalid_tool_call"),
    (chat(USER, ANSWER | {"tool_calls": [CALL | {"id": None}]}), "$.messages[1].tool_calls[0]", "invalid_tool_call"),
    (chat(USER, ANSWER | {"tool_calls": [CALL | {"function": {"name": "f"}}]}), "$.messages[1].tool_calls[0].function",
     "invalid_tool_call"),
    (chat(USER | {"tool_calls": [CALL]}, ANSWER), "$.messages[0].tool_calls", "invalid_tool_call"),
    (chat(USER, {"role": "tool", "content": "x"}, ANSWER), "$.messages[1]", "message_missing_key"),
    (chat(USER, {"role": "tool", "content": "x", "tool_call_id": "c1"}, ANSWER), "$.messages[1].tool_call_id",
     "unmatched_tool_call_id"),
    ({"prompt": "a"}, "$.completion", "missing_completion"),
    ({"prompt": "a", "completion": ""}, "$.completion", "missing_completion"),
    ({"completion": "a"}, "$.prompt", "missing_prompt"),
    ({"prompt": [USER], "completion": "a"}, "$.prompt", "data_type"),
    ({"text": ""}, "$.text", "missing_content"),
    ({"text": 1}, "$.text", "data_type"),
    (preference(non_preferred_output=None), "$.non_preferred_output", "invalid_preference"),
    (preference(preferred_output=[USER]), "$.preferred_output", "invalid_preference"),
    (preference(preferred_output=[USER, ANSWER]), "$", "invalid_preference"),
    (preference(non_preferred_output=[ANSWER]), "$", "invalid_preference"),
    (preference(input=None), "$", "missing_prompt"),
    (preference(input="hi"), "$.input", "data_type"),
    (preference(input={}), "$.input.messages", "missing_messages_list"),
]  # fmt: skip
ELSEWHERE = {
    # of the file: test_files.py, test_rows.py, test_tables.py
    "unsupported_format", "corrupt_file", "invalid_header", "invalid_csv", "line_too_long",
    # of the dataset as a whole: mixed_kinds below, the rest in test_reports.py
    "mixed_kinds", "empty_file", "no_chat_template", "template_rejected", "template_not_prefix",
    "special_token_in_content", "line_cut", "duplicate_line", "special_token_text", "zero_weight",
}  # fmt: skip


@pytest.mark.parametrize(("value", "path", "code"), BAD)
def test_each_error_has_its_place_and_code(value: Any, path: str, code: str) -> None:
    assert found(value) == [(path, code)]


def test_every_code_is_tested() -> None:
    assert {code for _, _, code in BAD} | ELSEWHERE == set(CODES)


def test_all_errors_of_a_line_are_reported() -> None:
    line = chat({"role": "usr", "content": None, "x": 1}, 3, {"role": "assistant"}, weight=-1, tools=[{}])
    assert sorted(found(line)) == [
        ("$.messages[0].content", "missing_content"),
        ("$.messages[0].role", "unrecognized_role"),
        ("$.messages[0].x", "message_unrecognized_key"),
        ("$.messages[1]", "data_type"),
        ("$.messages[2]", "message_missing_key"),
        ("$.tools[0]", "invalid_tools"),
        ("$.weight", "invalid_weight"),
    ]


def test_a_line_of_another_kind() -> None:
    assert found({"text": "a"}, Kind.CHAT) == [("$", "mixed_kinds")]
    assert found({"text": ""}, Kind.CHAT) == [("$", "mixed_kinds"), ("$.text", "missing_content")]
    assert parse({"text": "a"}, Kind.TEXT) == TextExample("a")


def test_a_megabyte_of_nonsense_has_a_bounded_number_of_errors() -> None:
    assert len(found(chat(*[1] * 5000))) == 1000


def test_a_conversation() -> None:
    line = chat(
        {"role": "system", "content": ""},
        {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "weight": 0},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ANSWER | {"weight": 1},
        tools=[TOOL],
        parallel_tool_calls=False,
        weight=2,
        topic="greetings",
    )
    assert parse(line) == ChatExample(
        messages=(
            Message("system", ""),
            Message("user", "ab", name="Ann"),
            Message("assistant", None, weight=0, tool_calls=(CALL,)),
            Message("tool", "42", tool_call_id="c1"),
            Message("assistant", "hello", weight=1),
        ),
        tools=(TOOL,),
        parallel_tool_calls=False,
        weight=2.0,
    )
    assert read_row(RawRow(1, json.dumps(line).encode())).ignored == {"topic"}


def test_the_other_kinds() -> None:
    assert parse({"prompt": "", "completion": "b", "weight": 0.5}) == CompletionExample("", "b", 0.5)
    assert parse({"text": "a", "weight": 0}) == TextExample("a", 0.0)
    assert parse({"text": "a", "messages": None}) == TextExample("a")
    assert parse(b'{"text": "\\ud83d\\ude00"}') == TextExample("\N{GRINNING FACE}")


TURNS = (Message("user", "hi"),)
GOOD, WORSE = Message("assistant", "hello"), Message("assistant", "go away")


@pytest.mark.parametrize(
    "line",
    [
        preference(),
        {
            "input": chat(USER),
            "preferred_completion": [ANSWER],
            "non_preferred_completion": [ANSWER | {"content": "go away"}],
        },
        {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": ANSWER | {"content": "go away"}},
        {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "go away"}]},
        {
            "prompt": "hi",
            "chosen": [USER, ANSWER],
            "rejected": [USER, ANSWER | {"content": "go away"}],
            "messages": [USER],
        },
    ],
)
def test_each_form_of_a_preference(line: dict[str, Any]) -> None:
    assert parse(line) == PreferenceExample(TURNS, None, GOOD, WORSE)


def test_whole_conversations_of_a_preference_must_agree() -> None:
    other = {"role": "user", "content": "hey"}
    assert found({"chosen": [USER, ANSWER], "rejected": [other, ANSWER]})[0] == ("$", "invalid_preference")


def test_tools_of_a_preference_stand_in_its_input() -> None:
    assert parse(preference(input=chat(USER, tools=[TOOL]))).tools == (TOOL,)


def test_reading_the_examples_of_a_good_dataset() -> None:
    data = b'\n{"text": "a"}\n\n{"text": "b"}\n'
    assert list(read_examples(io.BytesIO(data), FileFormat.JSONL)) == [(2, TextExample("a")), (4, TextExample("b"))]


def test_reading_the_examples_of_a_bad_dataset_says_what_is_wrong() -> None:
    reader = read_examples(io.BytesIO(b'{"text": "a"}\n{"prompt": "a"}\n'), FileFormat.JSONL)
    assert next(reader) == (1, TextExample("a"))
    with pytest.raises(InvalidLines, match="line 2") as caught:
        next(reader)
    assert [error.code for error in caught.value.errors] == ["mixed_kinds", "missing_completion"]
    assert pickle.loads(pickle.dumps(caught.value)).errors == caught.value.errors


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(FormatError("empty_file", "The file is empty.", "Write something.")))
    assert (error.code, str(error)) == ("empty_file", "The file is empty. Write something.")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["messages", "tools", "prompt", "completion", "text", "input", "chosen", "rejected", "preferred_output", "weight"]
)
turns = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "tool", "x"]) | json_values,
        "content": json_values,
        "tool_calls": json_values | st.lists(st.just(CALL)),
        "tool_call_id": json_values,
        "weight": json_values,
    },
)


@given(st.dictionaries(keys, json_values | st.lists(turns, max_size=3) | turns, max_size=5), st.booleans())
def test_any_json_is_an_example_or_a_list_of_errors(columns: dict[str, Any], as_table: bool) -> None:
    row = RawRow(1, columns if as_table else json.dumps(columns).encode())
    result = parse_row(row)
    if isinstance(result, list):
        assert result
        assert all(error.code in CODES for error in result)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_a_list_of_errors(data: bytes) -> None:
    assert parse_row(RawRow(1, data))
