"""Which questions of banking77 a benchmark uses, and where it looks for them."""

from pathlib import Path

import pytest
from tests.bench.banking77 import Banking77, DatasetMissingError, Question, find_folder

DATA = Banking77(
    train=tuple(Question(f"{intent} {number}?", intent) for number in range(4) for intent in ("card", "atm", "top_up")),
    test=tuple(Question(f"is it {intent}?", intent) for intent in ("top_up", "card", "atm")),
)


def test_intents_are_the_first_by_the_alphabet_in_both_files() -> None:
    some = DATA.restricted(2)
    assert (
        {question.intent for question in some.train} == {question.intent for question in some.test} == {"atm", "card"}
    )
    assert len(some.train) == 8
    assert len(some.test) == 2


def test_fewer_lines_are_the_first_of_each_intent() -> None:
    some = DATA.restricted(2, train_each=1)
    assert [question.text for question in some.train] == ["card 0?", "atm 0?"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    DATA.write(tmp_path)
    assert Banking77.read(tmp_path) == DATA
    assert find_folder(tmp_path) == tmp_path


def test_the_environment_may_name_a_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "banking77").mkdir()
    DATA.write(tmp_path / "banking77")
    monkeypatch.setenv("TRELLIS_SHARED_DATA", str(tmp_path))
    assert find_folder(None) == tmp_path / "banking77"


def test_without_it_one_reads_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match="--data") as raised:
        find_folder(tmp_path)
    assert {"train.jsonl", "PolyAI,", "CC"} <= set(str(raised.value).split())
