from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.unit.tokens import bases

from trellis.formats import ChatExample, CompletionExample, Message, PreferenceExample, TextExample
from trellis.tokens import ChatTokenizer, EncodedExample, TemplateError, TokenizerFilesError

USER, ANSWER = Message("user", "Hello there"), Message("assistant", "I am fine")
Bases = dict[str, ChatTokenizer]


def shown(tokenizer: ChatTokenizer, encoded: EncodedExample) -> str:
    """The text with brackets around what is trained on."""
    text, inside = "", False
    for number, weight in zip(encoded.ids, encoded.weights, strict=True):
        if (weight > 0) is not inside:
            text += "]" if inside else "["
            inside = not inside
        text += tokenizer.decode([number], skip_special_tokens=False)
    return text + "]" * inside


def chat(*messages: Message, weight: float = 1.0) -> ChatExample:
    return ChatExample(messages, weight=weight)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (
            "chatml",
            (
                "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n[I am fine<|im_end|>]\n"
                "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]\n"
            ),
        ),
        (
            "chatml-generation",
            (
                "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n[I am fine<|im_end|>]\n"
                "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]\n"
            ),
        ),
        (
            "llama3",
            (
                "<|begin|><|start|>user<|stop|>\n\nHello there<|eot|><|start|>assistant<|stop|>\n\n[I am fine<|eot|>]"
                "<|start|>user<|stop|>\n\nHello there<|eot|><|start|>assistant<|stop|>\n\n[Hello<|eot|>]"
            ),
        ),
    ],
)
def test_only_answers_and_the_ends_of_their_turns_are_trained(
    tokenizers_by_base: Bases, base: str, expected: str
) -> None:
    tokenizer = tokenizers_by_base[base]
    encoded = tokenizer.encode_example(chat(USER, ANSWER, USER, Message("assistant", "Hello")))
    assert shown(tokenizer, encoded) == expected
    assert (encoded.cut, encoded.total_tokens) == (False, len(encoded.ids))


def test_a_turn_end_outside_of_the_generation_tag_is_trained_all_the_same(tokenizers_by_base: Bases) -> None:
    tokenizer = tokenizers_by_base["mistral"]
    encoded = tokenizer.encode_example(chat(USER, ANSWER))
    trained = [number for number, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]
    assert tokenizer.decode(trained, skip_special_tokens=False).strip() == "I am fine</s>"
    assert encoded.weights[-1] == 1.0


@pytest.mark.parametrize("weights", [(0, 1), (1, 0), (None, 0), (0, 0)])
def test_an_answer_of_weight_0_is_not_trained(tokenizer: ChatTokenizer, weights: tuple[int | None, int]) -> None:
    turns = [Message("assistant", text, weight=weight) for text, weight in zip(("one", "two"), weights, strict=True)]
    encoded = tokenizer.encode_example(chat(USER, turns[0], USER, turns[1]))
    trained = tokenizer.decode([number for number, weight in zip(encoded.ids, encoded.weights, strict=True) if weight])
    assert trained.split() == [text for text, weight in zip(("one", "two"), weights, strict=True) if weight != 0]


def test_a_template_with_several_spans_for_an_answer(tmp_path: Path) -> None:
    template = """{%- for m in messages %}{% if m.role == 'assistant' %}
    {%- for word in m.content.split() %}{{ '|' }}{% generation %}{{ word }}{% endgeneration %}{% endfor %}
    {%- else %}{{ m.content }}{% endif %}{% endfor %}"""
    tokenizer = ChatTokenizer.load(bases.chatml(tmp_path, template))
    example = chat(USER, Message("assistant", "a b c", weight=0), USER, Message("assistant", "d e"))
    assert shown(tokenizer, tokenizer.encode_example(example)) == "Hello there|a|b|cHello there|[d]|[e]"


def test_generation_inside_a_macro_is_found(tmp_path: Path) -> None:
    template = """{%- macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}
    {%- for m in messages %}{{ '<|im_start|>' + (say(m) if m.role == 'assistant' else m.content) }}{% endfor %}"""
    tokenizer = ChatTokenizer.load(bases.chatml(tmp_path, template))
    assert (
        shown(tokenizer, tokenizer.encode_example(chat(USER, ANSWER)))
        == "<|im_start|>Hello there<|im_start|>[I am fine]"
    )


def test_the_line_weight_multiplies(tokenizer: ChatTokenizer) -> None:
    encoded = tokenizer.encode_example(chat(USER, ANSWER, weight=2.5))
    assert set(encoded.weights) == {0.0, 2.5}
    assert tokenizer.encode_example(chat(USER, ANSWER, weight=0)).trainable_tokens == 0


def test_what_is_longer_is_cut_at_the_end(tokenizer: ChatTokenizer) -> None:
    whole = tokenizer.encode_example(chat(USER, ANSWER))
    cut = tokenizer.encode_example(chat(USER, ANSWER), max_length=5)
    assert cut == EncodedExample(whole.ids[:5], whole.weights[:5], True, len(whole.ids))
    assert tokenizer.encode_example(chat(USER, ANSWER), max_length=len(whole.ids)) == whole


def test_completions_train_the_completion_and_the_end(tokenizers_by_base: Bases) -> None:
    tokenizer = tokenizers_by_base["mistral"]
    encoded = tokenizer.encode_example(CompletionExample("Hello", " there", 0.5))
    assert encoded.ids == [*tokenizer.encode_text("Hello there"), *tokenizer.eos_ids]
    before = len(tokenizer.encode_text("Hello"))
    assert encoded.weights == [0.0] * before + [0.5] * (len(encoded.ids) - before)
    assert tokenizer.decode(encoded.ids) == "Hello there"


def test_nothing_predicts_the_first_token(tokenizers_by_base: Bases) -> None:
    encoded = tokenizers_by_base["chatml"].encode_example(TextExample("Hello there"))
    assert encoded.weights == [0.0, *[1.0] * (len(encoded.ids) - 1)]
    assert encoded.ids[-1] in tokenizers_by_base["chatml"].eos_ids


def test_preferences_share_their_prompt_and_train_the_answers(tokenizers_by_base: Bases) -> None:
    tokenizer = tokenizers_by_base["chatml"]
    pair = tokenizer.encode_preference(
        PreferenceExample(
            (USER, ANSWER, USER), None, Message("assistant", "Hello", weight=0), Message("assistant", "no")
        )
    )
    before = "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\nI am fine<|im_end|>\n"
    before += "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"
    assert shown(tokenizer, pair.chosen) == before + "[Hello<|im_end|>]\n"
    assert shown(tokenizer, pair.rejected) == before + "[no<|im_end|>]\n"


SPECIALS = ["<|im_start|>", "<|im_end|>", "<|eot|>", "<|start|>", "<|begin|>", "</s>", "<s>", "[INST]", "[/INST]"]
hostile = st.lists(st.sampled_from([*SPECIALS, "assistant\n", " ", "a", "\U0010f000"]), max_size=6).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(hostile, hostile, hostile)
def test_no_message_can_write_special_tokens(tokenizer: ChatTokenizer, user: str, answer: str, name: str) -> None:
    specials = set(tokenizer._encoder._special_ids)
    honest = tokenizer.encode_example(chat(USER, ANSWER))
    attack = tokenizer.encode_example(chat(Message("user", user, name=name), Message("assistant", answer)))
    assert [number for number in attack.ids if number in specials] == [
        number for number in honest.ids if number in specials
    ]
    prompt = tokenizer.encode_text(user)
    assert set(prompt) & specials <= {tokenizer.bos_id}
    text = tokenizer.decode(attack.ids, skip_special_tokens=False)
    assert user.strip() in text
    assert answer.strip() in text


def test_tools_and_calls_cannot_write_special_tokens_either(tokenizers_by_base: Bases) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "<|im_end|>", "parameters": {"<|im_end|>": 1}}}
    tokenizer = tokenizers_by_base["chatml-generation"]
    end = tokenizer.encode_prompt([USER])[-1]
    ends = {number for number in tokenizer.eos_ids if number != end}
    count = sum(number in ends for number in tokenizer.encode_prompt([USER], [tool]))
    assert count == 2, "one for the tools, one for the user"
    call = {"id": "1", "type": "function", "function": {"name": "f<|im_end|>", "arguments": '{"a": "<|im_end|>"}'}}
    calling = tokenizers_by_base["chatml"].encode_example(chat(USER, Message("assistant", None, tool_calls=(call,))))
    assert tokenizers_by_base["chatml"].decode(calling.ids).count("<|im_end|>") == 2


def test_arguments_of_calls_reach_the_template_as_objects(tokenizers_by_base: Bases) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":"caf\\u00e9"}'}}
    broken = {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{oops"}}
    tokenizer = tokenizers_by_base["chatml"]
    text = tokenizer.decode(tokenizer.encode_prompt([USER, Message("assistant", None, tool_calls=(call, broken))]))
    assert '<tool_call>f {"a": "caf\u00e9"}</tool_call>' in text
    assert '<tool_call>g "{oops"</tool_call>' in text


def test_a_word_that_is_a_special_token_and_nothing_else_is_refused(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(bases.write_base(tmp_path, bases.words(("<end>",)), bases.CHATML, eos="<end>"))
    with pytest.raises(TemplateError, match="<end>") as caught:
        tokenizer.encode_prompt([Message("user", "hi <end> yes")])
    assert caught.value.code == "special_token_in_content"


def test_developer_is_system_for_templates_that_do_not_know_it(tokenizers_by_base: Bases, tmp_path: Path) -> None:
    message = Message("developer", "be kind")
    assert "system\nbe kind" in tokenizers_by_base["chatml"].decode(
        tokenizers_by_base["chatml"].encode_prompt([message])
    )
    knowing = ChatTokenizer.load(bases.chatml(tmp_path, "{# developer #}{{ messages[0].role }}"))
    assert knowing.decode(knowing.encode_prompt([message])) == "developer"


def test_a_base_without_a_template(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(bases.chatml(tmp_path, None))
    assert not tokenizer.has_chat_template
    assert tokenizer.encode_example(TextExample("Hello")).trainable_tokens > 0
    with pytest.raises(TemplateError, match="no chat template") as caught:
        tokenizer.encode_example(chat(USER, ANSWER))
    assert caught.value.code == "no_chat_template"


def test_a_template_that_rewrites_earlier_turns_is_refused_for_them_only(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(bases.chatml(tmp_path, bases.FORGETFUL))
    thinking = Message("assistant", "thoughts~I am fine")
    encoded = tokenizer.encode_example(chat(USER, thinking))
    assert shown(tokenizer, encoded).endswith("[thoughts~I am fine<|im_end|>]\n")
    with pytest.raises(TemplateError) as caught:
        tokenizer.encode_example(chat(USER, thinking, USER, ANSWER))
    assert caught.value.code == "template_not_prefix"


def test_a_template_may_refuse(tokenizers_by_base: Bases, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="roles must alternate") as caught:
        tokenizers_by_base["mistral"].encode_example(chat(USER, USER, ANSWER))
    assert caught.value.code == "template_rejected"
    broken = ChatTokenizer.load(bases.chatml(tmp_path / "a", "{{ messages[0].content + 1 }}"))
    with pytest.raises(TemplateError, match="refuses"):
        broken.encode_prompt([USER])
    with pytest.raises(TemplateError, match="broken"):
        ChatTokenizer.load(bases.chatml(tmp_path / "b", "{% if %}"))


@pytest.mark.parametrize("attack", ["{{ ''.__class__.__mro__ }}{{ raise_exception('') }}", "{{ messages.append(1) }}"])
def test_templates_run_in_a_sandbox(tmp_path: Path, attack: str) -> None:
    with pytest.raises(TemplateError):
        ChatTokenizer.load(bases.chatml(tmp_path, attack)).encode_prompt([USER])


def test_the_date_of_a_template_is_that_of_the_clock(tmp_path: Path) -> None:
    folder = bases.chatml(tmp_path, "{{ strftime_now('%d %b %Y') }}")
    tokenizer = ChatTokenizer.load(folder, clock=lambda: datetime(2020, 2, 29, tzinfo=UTC))
    assert tokenizer.decode(tokenizer.encode_prompt([USER])) == "29 Feb 2020"
    then = tokenizer.at(datetime(2019, 12, 31, tzinfo=UTC))
    assert then.decode(then.encode_prompt([USER])) == "31 Dec 2019"
    assert then.digest == tokenizer.digest
    assert tokenizer.decode(tokenizer.encode_prompt([USER])) == "29 Feb 2020"


def test_long_texts_are_encoded_in_chunks(tokenizers_by_base: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizers_by_base["chatml"]
    words = ["Hello", "caf\u00e9", "", "two\n\nlines", "\N{GRINNING FACE}", "<|im_end|>", "42"]
    examples = [
        chat(Message("user", " ".join(random.Random(seed).choices(words, k=600))), ANSWER) for seed in range(5)
    ] + [chat(*[USER, ANSWER] * 60)]
    whole = [tokenizer.encode_example(example) for example in examples]
    monkeypatch.setattr("trellis.tokens.text._CHUNK", 700)
    monkeypatch.setattr("trellis.tokens.text._WINDOW", 100)
    assert [tokenizer.encode_example(example) for example in examples] == whole
    unbroken = "\u4f60" * 5000
    assert tokenizer.decode(tokenizer.encode_text(unbroken)) == unbroken


def test_the_ends_of_an_answer(tmp_path: Path, tokenizers_by_base: Bases) -> None:
    names = {name: {tokenizer.decode([number], skip_special_tokens=False) for number in tokenizer.eos_ids}
             for name, tokenizer in tokenizers_by_base.items()}  # fmt: skip
    assert names == {
        "chatml": {"<|endoftext|>", "<|im_end|>"},
        "chatml-generation": {"<|endoftext|>", "<|im_end|>"},
        "llama3": {"<|end|>", "<|eot|>"},
        "mistral": {"</s>"},
    }
    folder = bases.chatml(tmp_path, None)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert ChatTokenizer.load(folder).eos_ids == {0, 7, 9}


def test_the_template_may_stand_in_the_config(tmp_path: Path) -> None:
    folder = bases.chatml(tmp_path, None)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    for template, expected in [("one", ("one", "one")), (templates, ("plain", "tools"))]:
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        tokenizer = ChatTokenizer.load(folder)
        prompts = (tokenizer.encode_prompt([USER]), tokenizer.encode_prompt([USER], [{"name": "f"}]))
        assert tuple(map(tokenizer.decode, prompts)) == expected


def test_the_digest_is_that_of_tokenizer_and_template(tmp_path: Path) -> None:
    digests = [
        ChatTokenizer.load(bases.chatml(tmp_path / "a")).digest,
        ChatTokenizer.load(bases.chatml(tmp_path / "b")).digest,
        ChatTokenizer.load(bases.chatml(tmp_path / "c", bases.CHATML + " ")).digest,
        ChatTokenizer.load(bases.chatml(tmp_path / "d", None)).digest,
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer.json", None),
    ],
)
def test_files_that_hold_no_tokenizer(tmp_path: Path, file: str, text: str | None) -> None:
    path = bases.chatml(tmp_path) / file
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(TokenizerFilesError) as caught:
        ChatTokenizer.load(tmp_path)
    assert caught.value.code == "invalid_tokenizer"


def test_neither_torch_nor_transformers_is_imported(base_folders: dict[str, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from trellis.tokens import ChatTokenizer; import trellis.reports;"
        f"ChatTokenizer.load(Path({str(base_folders['chatml'])!r}));"
        "assert not {'torch', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_errors_alone_need_no_tokenizers() -> None:
    code = "import sys; import trellis.tokens, trellis.reports; assert not {'tokenizers', 'jinja2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
