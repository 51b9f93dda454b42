"""What the tokenizer says about each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trellis.formats import Example, LineError, PreferenceExample, TextExample
from trellis.reports.previews import Preview, preview
from trellis.reports.tallies import LengthTally, LineTally
from trellis.tokens import EncodedExample, TemplateError

if TYPE_CHECKING:
    from trellis.tokens import ChatTokenizer

_Labelled = tuple[tuple[str, EncodedExample], ...]
_HINTS: Final = {
    "no_chat_template": "Tune on prompt and completion, or choose a base model with a chat template.",
    "template_rejected": "Order the turns as the base model expects them, or choose another base model.",
    "template_not_prefix": "Split the conversation so that each line ends in its only trained answer.",
    "special_token_in_content": "Remove the text, or spell it otherwise.",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The errors and warnings of one example."""

    errors: tuple[LineError, ...] = ()
    warnings: tuple[LineError, ...] = ()


class TokenTally:
    """Encodes examples one after another, as training will, and counts what comes out."""

    def __init__(self, tokenizer: ChatTokenizer, context_length: int | None, previews: int) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.tokens = self.trainable = self.encoded = 0
        self.lengths, self.cut = LengthTally(), LineTally()
        self.previews: list[Preview] = []
        self._previews_left = previews
        self._no_template = False

    def add(self, line: int, example: Example) -> Verdict:
        """Count one example."""
        if self._no_template:
            return Verdict()  # said once; a thousand times would hide the other errors
        try:
            encoded = self._encode(example)
        except TemplateError as error:
            self._no_template = error.code == "no_chat_template"
            return Verdict((LineError(line, "$.messages", error.code, error.message, _HINTS[error.code]),))
        self._count(line, encoded, splits=isinstance(example, TextExample))
        was_cut = any(item.cut for _, item in encoded)
        if example.weight > 0 and any(item.trainable_tokens == 0 for _, item in encoded):
            return Verdict((self._nothing_trained(line, was_cut),))
        warnings = [self._cut_warning(line, encoded, isinstance(example, TextExample))] if was_cut else []
        if self.tokenizer.spells_special_token(example):
            warnings.append(_special_token_warning(line))
        return Verdict((), tuple(warnings))

    def _encode(self, example: Example) -> _Labelled:
        if isinstance(example, PreferenceExample):
            pair = self.tokenizer.encode_preference(example, self.context_length)
            return ("preferred", pair.chosen), ("non_preferred", pair.rejected)
        return (("", self.tokenizer.encode_example(example, self.context_length)),)

    def _count(self, line: int, encoded: _Labelled, *, splits: bool) -> None:
        """Count a line; of long text all of it, as pre-training splits it where supervised tuning cuts it."""
        self.encoded += 1
        for _, item in encoded:
            beyond = item.total_tokens - len(item.ids) if splits else 0
            self.tokens += len(item.ids) + beyond
            self.trainable += item.trainable_tokens + (beyond if item.trainable_tokens else 0)
        self.lengths.add(max(item.total_tokens for _, item in encoded))
        if any(item.cut for _, item in encoded):
            self.cut.add(line)
        if self._previews_left:
            self._previews_left -= 1
            self.previews += [preview(self.tokenizer, line, label, item) for label, item in encoded]

    def _nothing_trained(self, line: int, was_cut: bool) -> LineError:
        message = "No token of the line would be trained on"
        message += f" once it is cut at the context of {self.context_length} tokens." if was_cut else "."
        hint = "Shorten what comes before the answer." if was_cut else "Give the line an answer to learn."
        return LineError(line, "$", "no_trainable_tokens", message, hint)

    def _cut_warning(self, line: int, encoded: _Labelled, splits: bool) -> LineError:
        longest = max(item.total_tokens for _, item in encoded)
        message = f"The line has {longest} tokens and will be cut at {self.context_length}."
        if splits:
            message = f"The line has {longest} tokens: supervised tuning cuts it at {self.context_length}, pre-training splits it."
        return LineError(line, "$", "line_cut", message, "Shorten it, or choose a base model with a longer context.")


def _special_token_warning(line: int) -> LineError:
    message = "The text spells a special token of the base model; it is read as plain text."
    return LineError(
        line, "$", "special_token_text", message, "Write turns as `messages`, not as text with the tokens."
    )
