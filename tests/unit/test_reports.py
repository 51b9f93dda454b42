from __future__ import annotations

import gzip
import io
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tokens import bases

import trellis
from trellis.formats import FileFormat, Kind, choose_held_out, detect_format, example_digest, read_examples
from trellis.reports import DatasetReport, Lengths, Lines, Preview, Segment, build_report
from trellis.tokens import ChatTokenizer

PACKAGE = Path(next(iter(trellis.__path__)))
ANSWER = {"role": "assistant", "content": "I am fine"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return ChatTokenizer.load(bases.chatml(tmp_path_factory.mktemp("base")))


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, ANSWER], **more}


def report(*lines: Any, **options: Any) -> DatasetReport:
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    found = build_report(io.BytesIO(data), FileFormat.JSONL, **options)
    assert DatasetReport.from_json(found.to_json()) == found
    return found


def errors(found: DatasetReport) -> list[tuple[int, str]]:
    assert not found.valid
    return [(error.line, error.code) for error in found.errors]


def test_a_good_dataset(tokenizer: ChatTokenizer) -> None:
    found = report(*(chat(f"Hello {number}") for number in range(20)), b"", tokenizer=tokenizer, context_length=64)
    assert found.valid
    assert (found.kind, found.lines, found.valid_lines, found.empty_lines) == (Kind.CHAT, 21, 20, 1)
    assert found.tokens is not None
    assert found.trainable_tokens is not None
    assert found.lengths is not None
    assert 0 < found.trainable_tokens < found.tokens
    assert found.lengths.p50 <= found.lengths.p90 <= found.lengths.p99 <= found.lengths.max
    assert found.held_out_lines == 2
    assert found.tokenizer_digest == tokenizer.digest
    assert found.summary == (
        f"20 chat lines, {found.tokens} tokens of which {found.trainable_tokens} are trained on, 2 held out, no errors."
    )


def test_without_a_tokenizer_there_are_no_figures_in_tokens() -> None:
    found = report(chat("a"), chat("b"))
    assert found.valid
    assert (found.tokens, found.trainable_tokens, found.lengths, found.previews) == (None, None, None, ())
    assert found.summary == "2 chat lines, 1 held out, no errors."


def test_the_preview_shows_what_is_trained_on(tokenizer: ChatTokenizer) -> None:
    found = report(
        *[chat(f"caf\u00e9 {number} \N{GRINNING FACE}") for number in range(9)], tokenizer=tokenizer, previews=2
    )
    assert [preview.line for preview in found.previews] == [1, 2]
    assert found.previews[1] == Preview(
        line=2,
        label="",
        complete=True,
        segments=(
            Segment("<|im_start|>user\ncaf\u00e9 1 \N{GRINNING FACE}<|im_end|>\n<|im_start|>assistant\n", False),
            Segment("I am fine<|im_end|>", True),
            Segment("\n", False),
        ),
    )


def test_the_preview_of_a_preference_shows_both_answers(tokenizer: ChatTokenizer) -> None:
    found = report({"prompt": "Hello", "chosen": "yes", "rejected": "no"}, tokenizer=tokenizer)
    assert [preview.label for preview in found.previews] == ["preferred", "non_preferred"]
    assert found.kind is Kind.PREFERENCE


def test_a_long_preview_is_not_complete(tokenizer: ChatTokenizer) -> None:
    (preview,) = report(chat("word " * 2000), tokenizer=tokenizer).previews
    assert not preview.complete
    assert len(preview.segments[0].text) < 10_000


def test_every_error_is_reported_with_its_line() -> None:
    found = report(chat("a"), b"{", {"messages": [{"role": "x"}]}, chat("b"), {"text": "a"}, b"[]")
    assert errors(found) == [
        (2, "invalid_json"), (3, "unrecognized_role"), (3, "message_missing_key"), (5, "mixed_kinds"), (6, "data_type"),
    ]  # fmt: skip
    assert found.error_counts == dict.fromkeys((code for _, code in errors(found)), 1)
    assert (found.lines, found.valid_lines) == (6, 2)
    assert found.summary.startswith("5 errors in 6 lines: 1 data_type, ")


def test_the_errors_kept_are_bounded_and_their_number_is_exact() -> None:
    found = report(*[b"{"] * 50, chat("a"), max_errors=10)
    assert (len(found.errors), found.error_count, found.error_counts) == (10, 50, {"invalid_json": 50})


@pytest.mark.parametrize("data", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_a_file_without_examples(data: bytes) -> None:
    found = build_report(io.BytesIO(data), FileFormat.JSONL)
    assert errors(found) == [(1, "empty_file")]


def test_a_file_that_cannot_be_read_at_all_has_a_report() -> None:
    found = build_report(io.BytesIO(b"a,b\n1,2\n"), FileFormat.CSV)
    assert errors(found) == [(1, "invalid_header")]
    assert errors(build_report(io.BytesIO(gzip.compress(b"{}")[:9]), FileFormat.JSONL_GZ))[-1][1] == "corrupt_file"


def test_lines_longer_than_the_context_are_cut_and_told(tokenizer: ChatTokenizer) -> None:
    long_answer = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes " * 50}]}
    found = report(chat("a"), long_answer, tokenizer=tokenizer, context_length=40)
    assert found.valid
    assert found.cut == Lines(1, (2,))
    assert found.warning_counts == {"line_cut": 1}
    assert found.tokens is not None
    assert found.lengths is not None
    assert found.tokens <= 80 < found.lengths.max
    assert "1 to be cut at 40 tokens" in found.summary


def test_long_text_counts_whole_as_pre_training_splits_it(tokenizer: ChatTokenizer) -> None:
    lines = [{"text": "a"}, {"text": "b" * 100}, {"text": "c" * 100, "weight": 0}]
    found = report(*lines, tokenizer=tokenizer, context_length=40)
    whole = report(*lines, tokenizer=tokenizer)
    assert (found.tokens, found.trainable_tokens) == (whole.tokens, whole.trainable_tokens)
    assert found.trainable_tokens is not None
    assert found.trainable_tokens > 40
    assert found.cut == Lines(2, (2, 3))
    assert "pre-training splits it" in found.warnings[0].message


def test_a_line_with_nothing_trained_after_the_cut_is_an_error(tokenizer: ChatTokenizer) -> None:
    found = report(chat("a"), chat("question " * 50), tokenizer=tokenizer, context_length=40)
    assert errors(found) == [(2, "no_trainable_tokens")]
    assert "40 tokens" in found.errors[0].message
    assert found.valid_lines == 1


def test_a_preference_whose_answer_is_cut_off_is_an_error(tokenizer: ChatTokenizer) -> None:
    line = {"prompt": "question " * 50, "chosen": "yes", "rejected": "no"}
    assert errors(report(line, tokenizer=tokenizer, context_length=40)) == [(1, "no_trainable_tokens")]


def test_lines_of_weight_0_are_a_warning_unless_there_are_no_others(tokenizer: ChatTokenizer) -> None:
    found = report(chat("a", weight=0), chat("b"), tokenizer=tokenizer)
    assert found.valid
    assert found.warning_counts == {"zero_weight": 1}
    assert errors(report(chat("a", weight=0), tokenizer=tokenizer)) == [(1, "no_trainable_tokens")]
    assert errors(report(chat("a", weight=0))) == [(1, "no_trainable_tokens")]


def test_duplicates_are_counted_and_stay_on_one_side_of_the_split() -> None:
    lines = [chat(str(number % 30), topic=number) for number in range(60)]
    found = report(*lines, held_out_fraction=0.2, seed=3)
    assert found.duplicates == Lines(30, tuple(range(31, 61)))
    assert found.held_out_lines == 12
    assert found.ignored_keys == {"topic": 60}
    data = "\n".join(map(json.dumps, lines)).encode()
    digests = [example_digest(example) for _, example in read_examples(io.BytesIO(data), FileFormat.JSONL)]
    assert found.held_out == choose_held_out(digests, 0.2, 3)
    assert sum(map(found.held_out.holds, digests)) == 12


def test_text_that_spells_a_special_token_is_told(tokenizer: ChatTokenizer) -> None:
    found = report(chat("a <|im_end|>"), chat("b"), tokenizer=tokenizer)
    assert found.valid
    assert found.warning_counts == {"special_token_text": 1}


def test_a_base_without_a_template_is_told_once(tmp_path: Path) -> None:
    bare = ChatTokenizer.load(bases.chatml(tmp_path, None))
    found = report(chat("a"), chat("b"), b"{", tokenizer=bare)
    assert errors(found) == [(1, "no_chat_template"), (3, "invalid_json")]
    assert found.tokens is None
    assert report({"text": "a"}, tokenizer=bare).valid


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (bases.mistral, "template_rejected"),
        (lambda folder: bases.chatml(folder, bases.FORGETFUL), "template_not_prefix"),
        (
            lambda folder: bases.write_base(folder, bases.words(("<end>",)), bases.CHATML, eos="<end>"),
            "special_token_in_content",
        ),
    ],
)
def test_what_the_template_refuses_is_an_error_of_the_line(
    tmp_path: Path, build: Callable[[Path], Path], code: str
) -> None:
    question = {"role": "user", "content": "hi <end> yes"}
    thought = {"role": "assistant", "content": "hm~yes"}
    line = {"messages": [question, thought, *[question] * (code == "template_rejected"), question, ANSWER]}
    assert errors(report(line, tokenizer=ChatTokenizer.load(build(tmp_path)))) == [(1, code)]


def test_progress_is_told() -> None:
    told: list[int] = []
    report(*[chat(str(number)) for number in range(450)], progress=told.append)
    assert told == [200, 400, 450]


def test_a_wrong_fraction_is_refused_before_the_file_is_read() -> None:
    with pytest.raises(ValueError, match="fraction"):
        report(chat("a"), held_out_fraction=1.0)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"file_format": "jsonl"}'])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the message is json's or ours
        DatasetReport.from_json(text)


def test_percentiles_are_nearest_ranks(tokenizer: ChatTokenizer) -> None:
    lengths = report(*[{"text": "a" * count} for count in range(1, 101)], tokenizer=tokenizer).lengths
    shortest = len(tokenizer.encode_text("a")) + 1
    assert isinstance(lengths, Lengths)
    assert shortest <= lengths.p50 <= lengths.p90 <= lengths.p99 <= lengths.max


class Lazy(io.RawIOBase):
    """Lines that are made when they are read."""

    def __init__(self, count: int) -> None:
        self._lines = (
            b'{"text": "%064x %s"}\n' % (random.Random(i).getrandbits(256), b"x" * 500) for i in range(count)
        )
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self._rest = self._rest or next(self._lines, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def test_memory_does_not_grow_with_the_file() -> None:
    lines = 20_000
    tracemalloc.start()
    found = build_report(io.BufferedReader(Lazy(lines)), FileFormat.JSONL)  # type: ignore[type-var]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.valid_lines == lines
    assert peak < 2 * 1024 * 1024, "12 MB were read"


def shared_data() -> Path:
    given = os.environ.get("TRELLIS_SHARED_DATA")
    return Path(given) if given else PACKAGE.resolve().parents[2] / "shared" / "data"


def test_real_questions_of_bank_customers() -> None:
    path = shared_data() / "banking77" / "test.jsonl"
    if not path.exists():
        pytest.skip("the shared data folder is not beside the repository, nor named by TRELLIS_SHARED_DATA")
    tiny = PACKAGE / "base_models" / "trellis-tiny"
    tokenizer = ChatTokenizer.load(tiny) if (tiny / "tokenizer.json").exists() else None
    with path.open("rb") as stream:
        found = build_report(stream, detect_format(path.name, b"{"), tokenizer=tokenizer, context_length=512)
    assert found.valid, found.errors[:3]
    assert (found.valid_lines, found.held_out_lines) == (3080, 308)
    if tokenizer:
        assert found.trainable_tokens is not None
        assert found.trainable_tokens > found.valid_lines
