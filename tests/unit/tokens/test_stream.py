from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings, strategies as st

from trellis.tokens import ChatTokenizer, StreamDecoder

Bases = dict[str, ChatTokenizer]
quietly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def pieces(tokenizer: ChatTokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(number) for number in ids), decoder.finish()]


def test_a_character_comes_when_it_is_complete(tokenizers_by_base: Bases) -> None:
    tokenizer = tokenizers_by_base["chatml"]
    face = "\N{GRINNING FACE}"
    found = pieces(tokenizer, tokenizer.encode_text(face))
    assert len(found) > 3
    assert found[-2:] == [face, ""]
    assert not any(found[:-2])


def test_half_a_character_at_the_end_is_shown_as_such(tokenizers_by_base: Bases) -> None:
    tokenizer = tokenizers_by_base["chatml"]
    ids = tokenizer.encode_text("a\N{GRINNING FACE}")[:-1]
    assert pieces(tokenizer, ids)[-1] == "\N{REPLACEMENT CHARACTER}"


def test_the_decoder_starts_anew_after_the_end(tokenizers_by_base: Bases) -> None:
    tokenizer = tokenizers_by_base["mistral"]
    decoder = StreamDecoder(tokenizer)
    ids = tokenizer.encode_text("Hello there")
    first, second = ("".join([*map(decoder.push, ids), decoder.finish()]) for _ in range(2))
    assert first == second == "Hello there"


@quietly
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_pieces_of_any_text_add_up(tokenizer: ChatTokenizer, text: str) -> None:
    ids = tokenizer.encode_text(text)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@quietly
@given(st.lists(st.integers(0, 419), max_size=80))
def test_the_pieces_of_any_tokens_add_up(tokenizers_by_base: Bases, ids: list[int]) -> None:
    tokenizer = tokenizers_by_base["chatml"]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_endless_nonsense_is_not_held_back(tokenizers_by_base: Bases) -> None:
    tokenizer = tokenizers_by_base["chatml"]
    lead = tokenizer.encode_text("\N{GRINNING FACE}")[0]
    decoder = StreamDecoder(tokenizer)
    given_before_the_end = "".join(decoder.push(lead) for _ in range(100))
    assert len(given_before_the_end) >= 80
    assert len(decoder._window) <= 120


def test_a_long_text_is_decoded_in_small_windows(base_folders: dict[str, Path], tokenizers_by_base: Bases) -> None:
    tokenizer = tokenizers_by_base["mistral"]
    decoder = StreamDecoder(tokenizer)
    for number in tokenizer.encode_text("Hello there caf\u00e9 \u4f60\u597d " * 30):
        decoder.push(number)
        assert len(decoder._window) < 20
