"""Which stretches of a rendered conversation were said by which assistant message."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from trellis.formats import Message
from trellis.tokens.errors import TemplateError
from trellis.tokens.marks import Rendered, Span

WeightedSpan = tuple[int, int, float]
Render = Callable[[Sequence[Message], bool], Rendered]
"""Renders some messages, with or without the prompt for a next answer."""


def marked_turns(messages: Sequence[Message], rendered: Rendered, render: Render) -> list[WeightedSpan]:
    """The trained spans where the template says what is generated. Raises TemplateError."""
    assistant = [index for index, message in enumerate(messages) if message.role == "assistant"]
    spans = rendered.generated
    if all(messages[index].trained for index in assistant):
        return [(start, end, 1.0) for start, end in spans]
    ends: Sequence[int] = range(1, len(spans) + 1)
    if len(spans) != len(assistant):  # some turns have several spans, or none
        ends = [len(render(messages[: index + 1], False).generated) for index in assistant]
        if sorted(ends) != list(ends) or ends[-1] != len(spans):
            raise _rewritten()
    weighted: list[WeightedSpan] = []
    for index, end in zip(assistant, ends, strict=True):
        weight = 1.0 if messages[index].trained else 0.0
        weighted += [(*span, weight) for span in spans[len(weighted) : end]]
    return weighted


def diffed_turns(
    messages: Sequence[Message], rendered: Rendered, render: Render, specials: re.Pattern[str]
) -> list[WeightedSpan]:
    """The trained spans where the template does not say: what each answer adds to the prompt for it.

    Raises TemplateError (`template_not_prefix`) for a template that writes earlier turns differently later on.
    """
    weighted: list[WeightedSpan] = []
    for index, message in enumerate(messages):
        if not message.trained:
            continue
        prompt = render(messages[:index], True).text
        answered = render(messages[: index + 1], False).text
        if not answered.startswith(prompt) or not rendered.text.startswith(answered):
            raise _rewritten()
        start, end = len(prompt), len(answered)
        weighted.append((start, _turn_end(rendered.text, start, end, specials), 1.0))
    return weighted


def _turn_end(text: str, start: int, end: int, specials: re.Pattern[str]) -> int:
    """The turn ends with its last special token, when only white space comes after: that belongs to the next turn."""
    last = end
    for match in specials.finditer(text, start, end):
        last = match.end()
    return last if not text[last:end].strip() else end


def weigh(
    ids: Sequence[int], offsets: Sequence[Span], spans: Sequence[WeightedSpan], eos: frozenset[int]
) -> list[float]:
    """The weight of each token: that of the span which it touches, else 0.

    An end token straight after a trained span is trained too, or the model would never learn to stop: not every
    template has it inside of what it marks as generated.
    """
    weights: list[float] = []
    at, before = 0, 0.0
    for number, (start, end) in zip(ids, offsets, strict=True):
        # byte-level tokenizers trim white space off the offsets, and leave a token of white space alone an empty one
        first = min(start, end - 1)
        while at < len(spans) and spans[at][1] <= first:
            at += 1
        if at < len(spans) and spans[at][0] < end and spans[at][0] < spans[at][1]:
            before = spans[at][2]
            weights.append(before)
        else:
            weights.append(before if number in eos else 0.0)
            before = 0.0
    return weights


def _rewritten() -> TemplateError:
    return TemplateError(
        "template_not_prefix",
        "The base model's chat template has no {% generation %} tag for every answer and writes earlier turns differently "
        "once later ones follow, so it cannot be told which tokens to train on.",
    )
