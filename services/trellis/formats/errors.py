"""What is wrong with a dataset, said so that a person and a program can both act on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CODES: Final[dict[str, str]] = {
    # the published codes of the OpenAI fine-tuning format
    "data_type": "A value has another type than the format asks for.",
    "missing_messages_list": "The line has no `messages`, and nothing else that says what kind of example it is.",
    "message_missing_key": "A message lacks a key that it must have.",
    "message_unrecognized_key": "A message has a key that the format does not know.",
    "unrecognized_role": "A message's role is none of system, developer, user, assistant, tool.",
    "missing_content": "There is no text where there must be some.",
    "example_missing_assistant_message": "There is no assistant message, so nothing to learn.",
    # ours: the file
    "unsupported_format": "The file is not JSON Lines, CSV or Parquet.",
    "empty_file": "The file has no valid line.",
    "corrupt_file": "The file ends early or cannot be read on.",
    "invalid_header": "A CSV file's first line does not name known columns once each.",
    # ours: the line
    "empty_line": "The line is blank.",
    "line_too_long": "The line is longer than a line may be.",
    "invalid_encoding": "The bytes are not UTF-8.",
    "invalid_json": "The line is not one JSON value of the strict grammar (NaN and Infinity are refused).",
    "invalid_unicode": "A string holds half of a surrogate pair.",
    "invalid_csv": "A CSV record does not fit its header or its quotes.",
    "duplicate_key": "A JSON object names the same key twice.",
    "mixed_kinds": "The line is of another kind than the lines before it.",
    "invalid_weight": "A weight is not one of the numbers that are allowed.",
    "invalid_tools": "A tool's definition cannot be used.",
    "invalid_tool_call": "A tool call cannot be used.",
    "unmatched_tool_call_id": "A tool message answers no tool call before it.",
    "missing_prompt": "A line of prompt and completion, or of preferences, has no prompt.",
    "missing_completion": "A line of prompt and completion has no completion.",
    "invalid_preference": "The two answers of a preference cannot be compared.",
    # ours: what only the tokenizer knows
    "no_trainable_tokens": "No token of the line would be trained on.",
    "no_chat_template": "The base model has no chat template, so it cannot be tuned on messages.",
    "template_rejected": "The base model's chat template refuses the conversation.",
    "template_not_prefix": "The chat template rewrites earlier turns, so the trained tokens cannot be told.",
    "special_token_in_content": "Text that spells a special token cannot be told from the token.",
    # warnings
    "line_cut": "The line is longer than the context and will be cut.",
    "duplicate_line": "The same example came earlier in the file.",
    "special_token_text": "Text spells a special token; it is read as plain text.",
    "zero_weight": "The line's weight is 0, so nothing is learnt from it.",
}
"""Each machine code that a :class:`LineError` may carry, and its meaning. Codes are stable: they are never renamed."""


@dataclass(frozen=True, slots=True)
class LineError:
    """One thing wrong with one line: where (`line` is one-based, `path` a JSON path), what, and what to do."""

    line: int
    path: str
    code: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.path}: {self.message} [{self.code}] {self.hint}".rstrip()


class FormatError(ValueError):
    """A file that cannot be read as a dataset at all; `code` is one of :data:`CODES`."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code, self.message, self.hint = code, message, hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InvalidLines(FormatError):
    """Raised by readers that need every line to be right; `errors` says what is wrong with the first bad one."""

    def __init__(self, errors: tuple[LineError, ...]) -> None:
        ValueError.__init__(self, errors)
        self.errors = errors
        self.code, self.message, self.hint = errors[0].code, str(errors[0]), ""


MAX_ERRORS_A_LINE: Final = 1000
"""A line may be megabytes of nonsense; beyond this many its errors say nothing new."""


class Problems:
    """Collects every error of one line while it is read, up to :data:`MAX_ERRORS_A_LINE`."""

    __slots__ = ("found", "line")

    def __init__(self, line: int) -> None:
        self.line = line
        self.found: list[LineError] = []

    def add(self, path: str, code: str, message: str, hint: str = "") -> None:
        """Note one error; the code must be one of :data:`CODES`."""
        assert code in CODES, code
        if len(self.found) < MAX_ERRORS_A_LINE:
            self.found.append(LineError(self.line, path, code, message, hint))
