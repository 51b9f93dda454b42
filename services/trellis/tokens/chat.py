"""A base model's own tokenizer and chat template, without the libraries that run the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from trellis.formats import ChatExample, CompletionExample, Message, PreferenceExample, TextExample
from trellis.tokens.encoded import EncodedExample, EncodedPair
from trellis.tokens.errors import TemplateError
from trellis.tokens.folder import TokenizerFiles, read_tokenizer_files
from trellis.tokens.marks import Marks, Rendered, strings_in
from trellis.tokens.template import ChatTemplate, template_message
from trellis.tokens.text import TextEncoder
from trellis.tokens.turns import diffed_turns, marked_turns, weigh

Tools = Sequence[Mapping[str, Any]]
_PROBE: Final = (Message("user", "question"), Message("assistant", "answer"))


def _local_time() -> datetime:
    return datetime.now().astimezone()


class ChatTokenizer:
    """Turns examples and prompts into token ids, and ids into text; safe to share between threads.

    Conversations get the ids that transformers' `apply_chat_template` gives them, with one exception: text in a message
    (or in a tool, or in any other field) that spells a special token stays text, so that no message can end its own turn.
    Tokens that the tokenizer does not call special, such as `<think>` in some models, are left to it.
    """

    def __init__(self, files: TokenizerFiles, clock: Callable[[], datetime] = _local_time) -> None:
        self._files = files
        self._encoder = TextEncoder(files.tokenizer)
        self._template = self._compiled(files.template, clock)
        self._tool_template = self._compiled(files.tool_template, clock) or self._template
        self._eos_id = self._named_id("eos_token")
        turn_end = self._turn_end_id()
        known = (*files.eos_ids, self._eos_id, turn_end)
        self._eos_ids = frozenset(number for number in known if number is not None)
        self._starts_with_bos = self._adds_bos()

    @classmethod
    def load(cls, folder: Path, clock: Callable[[], datetime] = _local_time) -> ChatTokenizer:
        """The tokenizer of the base model in `folder`; `clock` answers templates that write today's date.

        Raises TokenizerFilesError, and TemplateError (`no_chat_template`) for a template that is no Jinja.
        """
        return cls(read_tokenizer_files(folder), clock)

    def at(self, moment: datetime) -> ChatTokenizer:
        """The same tokenizer, for whose templates it is always `moment`."""
        if "strftime_now" not in f"{self._files.template}{self._files.tool_template}":
            return self
        return ChatTokenizer(self._files, lambda: moment)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the tokenizer and the chat template: what training and serving must agree on."""
        digest = hashlib.sha256()
        for part in (self._files.tokenizer, self._files.template or "", self._files.tool_template or ""):
            data = part.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()

    @property
    def definition(self) -> str:
        """The tokenizer in the form of tokenizer.json, for other libraries."""
        return str(self._encoder.tokenizer.to_str())

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer: those of the generation config, the tokenizer's, and the template's."""
        return self._eos_ids

    @property
    def bos_id(self) -> int | None:
        """The token that starts a text, if the model has one."""
        return self._named_id("bos_token")

    @property
    def pad_id(self) -> int:
        """The token to fill a batch with; an end token, or 0, for a model that has none."""
        pad = self._named_id("pad_token")
        return pad if pad is not None else min(self._eos_ids, default=0)

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return int(self._encoder.tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be encoded."""
        return self._template is not None

    def spells_special_token(self, example: ChatExample | PreferenceExample | CompletionExample | TextExample) -> bool:
        """Whether some text of the example spells a special token, and so will be read otherwise than perhaps meant."""
        return any(self._encoder.specials.search(text) for text in _texts_of(example))

    def encode_example(
        self, example: ChatExample | CompletionExample | TextExample, max_length: int | None = None
    ) -> EncodedExample:
        """An example as tokens and weights; what is beyond `max_length` tokens is cut off at the end.

        Raises TemplateError.
        """
        if isinstance(example, ChatExample):
            return self._encode_chat(example.messages, example.tools, example.weight, max_length)
        if isinstance(example, CompletionExample):
            prompt = self.encode_text(example.prompt)
            learnt = self._encoder.encode_plain(example.completion, continued=bool(example.prompt))
        else:
            prompt = self.encode_text("")
            learnt = self._encoder.encode_plain(example.text)
        learnt = learnt if self._eos_id is None else [*learnt, self._eos_id]
        return _cut(prompt + learnt, [0.0] * len(prompt) + [example.weight] * len(learnt), max_length)

    def encode_preference(self, example: PreferenceExample, max_length: int | None = None) -> EncodedPair:
        """A preference as two token sequences with one prompt, each cut to `max_length`. Raises TemplateError."""
        shared = [replace(message, weight=0) for message in example.messages]
        chosen, rejected = (
            self._encode_chat([*shared, replace(answer, weight=1)], example.tools, example.weight, max_length)
            for answer in (example.preferred, example.non_preferred)
        )
        return EncodedPair(chosen, rejected)

    def encode_prompt(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """A conversation as the prompt for the assistant's next turn. Raises TemplateError."""
        rendered = self._render(messages, tools, prompt=True)
        return self._encoder.encode(rendered.text, rendered.plain).ids

    def encode_text(self, text: str) -> list[int]:
        """Plain text as a prompt, with the start token if the model wants one; special tokens are not recognised."""
        bos = self.bos_id if self._starts_with_bos else None
        return [*([] if bos is None else [bos]), *(self._encoder.encode_plain(text) if text else [])]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some tokens."""
        return str(self._encoder.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def _encode_chat(
        self, messages: Sequence[Message], tools: Tools | None, weight: float, max_length: int | None
    ) -> EncodedExample:
        rendered = self._render(messages, tools, prompt=False)
        tokens = self._encoder.encode(rendered.text, rendered.plain)

        def render(some: Sequence[Message], prompt: bool) -> Rendered:
            return self._render(some, tools, prompt=prompt)

        if self._template_for(tools).marks_generation:
            spans = marked_turns(messages, rendered, render)
        else:
            spans = diffed_turns(messages, rendered, render, self._encoder.specials)
        weights = [trained * weight for trained in weigh(tokens.ids, tokens.offsets, spans, self._eos_ids)]
        return _cut(tokens.ids, weights, max_length)

    def _render(self, messages: Sequence[Message], tools: Tools | None, *, prompt: bool) -> Rendered:
        template, specials = self._template_for(tools), self._encoder.specials
        values: list[Any] = [template_message(turn, knows_developer=template.knows_developer) for turn in messages]
        given: list[Any] | None = list(tools) if tools else None
        text = "\0".join(strings_in([values, given or []]))
        marks = Marks.unlike(text)
        if specials.search(text):
            values, given = marks.put(values, specials), given and marks.put(given, specials)
        marked = template.render(values, given, add_generation_prompt=prompt, generation_marks=marks.generation)
        return marks.take_out(marked, specials)

    def _template_for(self, tools: Tools | None) -> ChatTemplate:
        template = self._tool_template if tools else self._template
        if template is None:
            raise TemplateError("no_chat_template", _NO_TEMPLATE)
        return template

    def _compiled(self, source: str | None, clock: Callable[[], datetime]) -> ChatTemplate | None:
        return None if source is None else ChatTemplate(source, self._files.named_tokens, clock)

    def _named_id(self, name: str) -> int | None:
        text = self._files.named_tokens.get(name)
        return None if text is None else self._encoder.tokenizer.token_to_id(text)

    def _turn_end_id(self) -> int | None:
        """The special token that the template writes straight after an answer; some models name it nowhere else."""
        try:
            text = self._render(_PROBE, None, prompt=False).text
        except TemplateError:
            return None
        after = text.rpartition(str(_PROBE[-1].content))[2]
        match = self._encoder.specials.match(after)
        return self._encoder.tokenizer.token_to_id(match[0]) if match else None

    def _adds_bos(self) -> bool:
        if self._files.add_bos is not None:
            return self._files.add_bos
        return bool(self.bos_id in self._encoder.tokenizer.encode("").ids[:1])


_NO_TEMPLATE: Final = (
    "The base model has no chat template, so it cannot be tuned on messages; use lines of prompt and completion, or a base "
    "model with a template."
)


def _texts_of(example: ChatExample | PreferenceExample | CompletionExample | TextExample) -> list[str]:
    if isinstance(example, ChatExample):
        return [turn.content or "" for turn in example.messages]
    if isinstance(example, PreferenceExample):
        return [turn.content or "" for turn in (*example.messages, example.preferred, example.non_preferred)]
    return [example.prompt, example.completion] if isinstance(example, CompletionExample) else [example.text]


def _cut(ids: list[int], weights: list[float], max_length: int | None) -> EncodedExample:
    total = len(ids)
    if weights:
        weights[0] = 0.0
    if max_length is None or total <= max_length:
        return EncodedExample(ids, weights, False, total)
    return EncodedExample(ids[:max_length], weights[:max_length], True, total)
