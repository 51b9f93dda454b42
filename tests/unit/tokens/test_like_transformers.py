"""The contract: ids, and masks where both have one, are those of transformers' own `apply_chat_template`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.unit.tokens import bases

import trellis
from trellis.formats import ChatExample, CompletionExample, Message, TextExample
from trellis.tokens import ChatTokenizer

transformers = pytest.importorskip("transformers")
TINY = Path(next(iter(trellis.__path__))) / "base_models" / "trellis-tiny"


@cache
def theirs_of(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def as_dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": turn.content} for turn in messages]


def conversation(*contents: str) -> tuple[Message, ...]:
    return tuple(Message(("user", "assistant")[index % 2], content) for index, content in enumerate(contents))


ORDINARY = [
    conversation("Hello there", "I am fine"),
    conversation("a", "b", "c", "d"),
    conversation("  spaces ", "caf\u00e9 \u4f60\u597d \N{GRINNING FACE}\N{FAMILY}", "\n\nnew\n", "x"),
    conversation("0123456789" * 30, "\u0000\u200b\ufeff"),
]
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text("a <|>/s[INT]\n ", max_size=12)
conversations = st.lists(anything, min_size=2, max_size=4).map(lambda texts: conversation(*texts))


def check(ours: ChatTokenizer, theirs: Any, messages: Sequence[Message]) -> None:
    expected = theirs.apply_chat_template(as_dicts(messages), return_dict=False, sanitize_control_tokens=True)
    assert ours.encode_example(ChatExample(tuple(messages))).ids == expected
    prompt = theirs.apply_chat_template(
        as_dicts(messages), return_dict=False, add_generation_prompt=True, sanitize_control_tokens=True
    )
    assert ours.encode_prompt(messages) == prompt


@pytest.mark.parametrize("messages", ORDINARY)
def test_ordinary_conversations(folder: Path, tokenizer: ChatTokenizer, messages: tuple[Message, ...]) -> None:
    plain = theirs_of(folder).apply_chat_template(as_dicts(messages), return_dict=False)
    assert tokenizer.encode_example(ChatExample(messages)).ids == plain
    check(tokenizer, theirs_of(folder), messages)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(conversations)
def test_any_conversation(folder: Path, tokenizer: ChatTokenizer, messages: tuple[Message, ...]) -> None:
    check(tokenizer, theirs_of(folder), messages)


@pytest.mark.parametrize("template", ["{{ messages[0].content }}", "{{ strftime_now('%Y') }}{{ dict(a=1) | tojson }}"])
def test_the_names_that_templates_know(tmp_path: Path, template: str) -> None:
    folder = bases.chatml(tmp_path, template)
    check_prompt(ChatTokenizer.load(folder), theirs_of(folder), conversation("<b>&'\""))


def check_prompt(ours: ChatTokenizer, theirs: Any, messages: Sequence[Message], tools: Any = None) -> None:
    expected = theirs.apply_chat_template(
        as_dicts(messages), tools=tools, return_dict=False, add_generation_prompt=True
    )
    assert ours.encode_prompt(messages, tools) == expected


def test_tools(base_folders: dict[str, Path], tokenizers_by_base: dict[str, ChatTokenizer]) -> None:
    tools = [
        {
            "type": "function",
            "function": {"name": "f", "description": "caf\u00e9 <b>", "parameters": {"type": "object"}},
        }
    ]
    name = "chatml-generation"
    check_prompt(tokenizers_by_base[name], theirs_of(base_folders[name]), conversation("hi"), tools)


@pytest.mark.parametrize("messages", ORDINARY)
def test_the_mask_of_a_template_that_marks_what_is_generated(
    base_folders: dict[str, Path], tokenizers_by_base: dict[str, ChatTokenizer], messages: tuple[Message, ...]
) -> None:
    name = "chatml-generation"
    expected = theirs_of(base_folders[name]).apply_chat_template(
        as_dicts(messages), return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = tokenizers_by_base[name].encode_example(ChatExample(messages))
    assert encoded.weights == [float(mask) for mask in expected["assistant_masks"]]


@pytest.mark.parametrize("text", ["Hello there", " a ", "caf\u00e9\n"])
def test_text_and_completions(folder: Path, tokenizer: ChatTokenizer, text: str) -> None:
    theirs = theirs_of(folder)
    assert tokenizer.encode_text(text) == theirs(text)["input_ids"]
    ids = tokenizer.encode_example(TextExample(text)).ids
    assert ids == [*theirs(text)["input_ids"], theirs.eos_token_id]
    prompt = theirs(text)["input_ids"]
    assert tokenizer.encode_example(CompletionExample(text, "yes")).ids[: len(prompt)] == prompt


@pytest.mark.skipif(not (TINY / "tokenizer.json").exists(), reason="the tiny base model has not been built")
def test_the_tiny_base() -> None:
    ours, theirs = ChatTokenizer.load(TINY), theirs_of(TINY)
    for messages in ORDINARY:
        check(ours, theirs, messages)
        expected = theirs.apply_chat_template(as_dicts(messages), return_assistant_tokens_mask=True, return_dict=True)
        encoded = ours.encode_example(ChatExample(messages))
        assert encoded.ids == expected["input_ids"]
        assert encoded.weights == [float(mask) for mask in expected["assistant_masks"]]
    assert ours.eos_ids == {theirs.eos_token_id}
    assert (ours.bos_id, ours.pad_id, ours.vocab_size) == (theirs.bos_token_id, theirs.pad_token_id, len(theirs))
