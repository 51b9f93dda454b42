import pytest
from hypothesis import given, strategies as st
from tests.workshop import Workshop

from trellis.engine import FinishReason, Request
from trellis.engine.sampler import Choice, Sampler
from trellis.engine.sequence import Sequence
from trellis.engine.stop import StopStrings

TEXT = st.text("ab.", max_size=24)


@given(text=TEXT, stops=st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3), data=st.data())
def test_any_cut_of_the_text_gives_what_is_before_the_first_stop(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    strings = StopStrings(stops)
    said, rest = "", text
    while rest and not strings.found:
        size = data.draw(st.integers(1, len(rest)))
        said += strings.push(rest[:size])
        assert not any(stop in said for stop in stops)
        rest = rest[size:]
    said += strings.finish()
    # Pieces end the search where they end: the stop that is complete first counts.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if not ends:
        assert said == text
        assert not strings.found
        return
    assert strings.found
    assert text.startswith(said)
    assert said in {text[:start] for _, start in ends}


def test_text_that_may_become_a_stop_is_held_back_and_no_more() -> None:
    strings = StopStrings(["END"])
    assert strings.push("the E") == "the "
    assert strings.push("N") == ""
    assert strings.push("e") == "ENe"
    assert strings.push("E") == ""
    assert strings.finish() == "E"


def test_nothing_is_let_through_after_a_stop() -> None:
    strings = StopStrings(["x"])
    assert strings.push("abxcd") == "ab"
    assert (strings.push("more"), strings.finish()) == ("", "")


@pytest.mark.parametrize("stop", ["ß", "ößer \N{GRINNING FACE}", "\N{GRINNING FACE} 日", "日本", "本 END", "r"])
def test_a_stop_string_of_characters_whose_bytes_are_in_several_tokens(workshop: Workshop, stop: str) -> None:
    whole = "so größer \N{GRINNING FACE} 日本 END of it"
    ids = workshop.tokenizer.encode_text(whole)
    assert len(ids) > len(whole), "characters take several tokens"
    request = Request("r", (1,), max_tokens=len(ids) + 1, stop=("never!", stop))
    sequence = Sequence(request, 0, Sampler(request.sampling, None), workshop.tokenizer, request.max_tokens)
    said = []
    for token_id in ids:
        said.append(sequence.append(Choice(token_id, 0.0)))
        if sequence.is_finished:
            break
    assert said[-1].finish_reason is FinishReason.STOP
    assert "".join(piece.text for piece in said) == whole[: whole.index(stop)]
    assert not any("\N{REPLACEMENT CHARACTER}" in piece.text for piece in said)
    assert len(said) < len(ids), "nothing is made beyond it"
