"""From files to items, by method."""

import json
from collections.abc import Callable

import pytest
from tests.tiny_llama import chat_line

from trellis.errors import Reason
from trellis.objects import ObjectStore
from trellis.spec import Preference, TrainSpec
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.failure import JobFailedError
from trellis_jobs.methods.open import Data, objective_of, read_items
from trellis_jobs.methods.preference import DirectPreference, OddsRatio
from trellis_jobs.methods.supervised import TokenMean
from trellis_jobs.model import Base

MakeSpec = Callable[..., TrainSpec]
Read = Callable[..., Data]


@pytest.fixture
def read(store: ObjectStore, make_spec: MakeSpec, base: Base) -> Read:
    def read(
        training: list[str], replay: list[str] | None = None, valid: list[str] | None = None, **spec: object
    ) -> Data:
        keys = {}
        for which, lines in (("training", training), ("replay", replay), ("validation", valid)):
            if lines is not None:
                store.put_bytes(f"data/{which}.jsonl", "\n".join(lines).encode())
                keys[f"{which}_key"] = f"data/{which}.jsonl"
        return read_items(store, make_spec(**spec), StartAttemptResponse(**keys), base.tokenizer)  # type: ignore[arg-type]

    return read


def chats(count: int) -> list[str]:
    return [chat_line(f"why {number}", f"as {number}") for number in range(count)]


def texts(count: int) -> list[str]:
    return [json.dumps({"text": f"text number {number}"}) for number in range(count)]


def preference(question: str, chosen: str, rejected: str, weight: float = 1.0) -> str:
    return json.dumps({"prompt": question, "chosen": chosen, "rejected": rejected, "weight": weight})


def test_supervised_lines_are_items_of_one_sequence(read: Read, base: Base) -> None:
    data = read(chats(8), held_out_fraction=0.25)
    assert (len(data.train), len(data.held_out), len(data.answers), data.replay_count) == (6, 2, 2, 0)
    (row,) = data.train.rows(0)
    assert data.train.length(0) == row.ids_T.numel()
    assert data.train.weight(0) == float(row.weights_T.sum()) == len("as 0<")


def test_a_preference_is_its_two_answers_to_one_prompt(read: Read, base: Base) -> None:
    lines = [preference("why?", "so", "because", 0.5), preference("how?", "thus", "no", 0.0)]
    data = read(lines, method="preference", held_out_fraction=0.0)
    assert len(data.train) == 1
    assert data.warnings == ("1 training lines have no token to train on and were left out.",)
    chosen, rejected = data.train.rows(0)
    texts = [base.tokenizer.decode(row.ids_T[row.weights_T > 0].tolist()) for row in (chosen, rejected)]
    assert texts == ["so", "because"]
    assert data.train.weight(0) == 0.5
    assert set(chosen.weights_T.tolist()) == {0.0, 1.0}  # the line's weight is the pair's, not its tokens'
    assert data.train.length(0) == chosen.ids_T.numel() + rejected.ids_T.numel()


def test_held_out_preferences_are_pairs_without_answers(read: Read) -> None:
    lines = [preference(f"why {number}?", "so", "because") for number in range(10)]
    data = read(lines, method="preference", held_out_fraction=0.2)
    assert (len(data.train), len(data.held_out), len(data.answers)) == (8, 2, 0)
    assert len(data.held_out.rows(1)) == 2


def test_a_pair_of_which_one_answer_is_cut_away_is_left_out(read: Read) -> None:
    lines = [preference("why", "so", "no"), preference("w" * 100, "so", "no")]
    data = read(lines, method="preference", held_out_fraction=0.0)
    assert len(data.train) == 1
    assert [warning.split()[-1] for warning in data.warnings] == ["cut.", "out."]


def test_long_texts_are_split_such_that_every_token_is_predicted_once(read: Read, base: Base) -> None:
    text = "".join(chr(97 + number % 26) for number in range(100))
    data = read([json.dumps({"text": text})], method="pretraining", context_length=16, held_out_fraction=0.0)
    rows = [data.train.rows(index)[0] for index in range(len(data.train))]
    assert max(row.ids_T.numel() for row in rows) == 16
    learnt = [token for row in rows for token in row.ids_T[1:].tolist()]
    whole = [*base.tokenizer.encode_text(text), min(base.tokenizer.eos_ids)]
    assert [int(rows[0].ids_T[0]), *learnt] == whole
    assert all(row.weights_T.tolist() == [0.0] + [1.0] * (row.ids_T.numel() - 1) for row in rows)
    assert [data.train.line(index) for index in range(len(data.train))] == [1] * len(rows)
    assert sum(data.train.weight(index) for index in range(len(rows))) == len(whole) - 1
    assert "split into pieces" in data.warnings[0]


@pytest.mark.parametrize("length", [1, 2, 3, 15, 16, 17, 30, 31, 32])
def test_a_text_of_any_length_loses_no_token(read: Read, length: int) -> None:
    data = read([json.dumps({"text": "a" * length})], method="pretraining", context_length=16, held_out_fraction=0.0)
    assert (
        sum(data.train.weight(index) for index in range(len(data.train))) == length
    )  # with the end, without the first


def test_the_pieces_of_a_text_are_on_one_side_of_the_split(read: Read) -> None:
    lines = [json.dumps({"text": chr(97 + number) * 60}) for number in range(6)]
    data = read(lines, method="pretraining", context_length=16, held_out_fraction=0.3)
    train, held = ({one.line(index) for index in range(len(one))} for one in (data.train, data.held_out))
    assert (len(train), len(held), train & held) == (4, 2, set())
    assert len(data.answers) == 0


def test_replayed_lines_come_after_the_others_with_negative_numbers(read: Read) -> None:
    data = read(chats(4), replay=texts(3), held_out_fraction=0.0)
    assert [data.train.line(index) for index in range(7)] == [1, 2, 3, 4, -1, -2, -3]
    assert data.replay_count == 3
    assert data.told == (
        "Training on 4 lines; none is held out, so that nothing is evaluated; 3 of the replay dataset are mixed in."
    )
    assert data.plan(TrainSpec("", "", "", "", "", "", 64, batch_size=4)).replay_size == 1


def test_lines_are_counted_in_a_sentence(read: Read) -> None:
    assert read(chats(1), valid=chats(3)).told == "Training on 1 line; 3 are held out."
    assert read(chats(4), valid=chats(5)[:1]).told == "Training on 4 lines; 1 is held out."


def test_no_held_out_line_is_replayed(read: Read) -> None:
    data = read(chats(4), valid=chats(2), replay=chats(4))
    assert [data.train.line(index) for index in range(4, len(data.train))] == [-3, -4]
    with pytest.raises(JobFailedError, match="replay dataset") as raised:
        read(chats(4), valid=chats(2), replay=chats(2))
    assert raised.value.reason is Reason.DATASET_INVALID


def test_pretraining_may_replay_conversations(read: Read) -> None:
    data = read(texts(4), replay=chats(2), method="pretraining", held_out_fraction=0.0)
    (row,) = data.train.rows(4)
    assert 0 < data.train.weight(4) < row.ids_T.numel() - 1


@pytest.mark.parametrize(
    ("method", "training", "replay"),
    [
        ("supervised", [preference("a", "b", "c")], None),
        ("preference", chats(1), None),
        ("pretraining", chats(1), None),
        ("supervised", chats(2), [preference("a", "b", "c")]),
        ("preference", [preference("a", "b", "c")], chats(2)),
        ("pretraining", texts(2), [preference("a", "b", "c")]),
    ],
)
def test_lines_that_a_method_cannot_learn_from_are_refused(
    read: Read, method: str, training: list[str], replay: list[str] | None
) -> None:
    with pytest.raises(JobFailedError, match="lines are") as raised:
        read(training, replay=replay, method=method, held_out_fraction=0.0)
    assert raised.value.reason is Reason.DATASET_INVALID


def test_the_spec_says_what_is_minimised(make_spec: MakeSpec) -> None:
    assert objective_of(make_spec()) == objective_of(make_spec(method="pretraining")) == TokenMean()
    dpo = Preference("dpo", 0.2, 0.1, reference_free=True)
    assert objective_of(make_spec(method="preference", preference=dpo)) == DirectPreference(0.2, 0.1, True)
    assert objective_of(make_spec(method="preference", preference=Preference("orpo", 0.3))) == OddsRatio(0.3)
