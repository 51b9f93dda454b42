"""A base model's own tokenizer and chat template, without the libraries that run the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trellis.formats import ChatExample, CompletionExample, Message, PreferenceExample, TextExample
from trellis.tokens.encoded import EncodedExample, EncodedPair


class ChatTokenizer:
    """Turns examples and prompts into token ids, and ids into text; safe to share between threads."""

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """The tokenizer of the base model in `folder`. Raises TokenizerFilesError."""
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the tokenizer and the chat template: what training and serving must agree on."""
        raise NotImplementedError

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        raise NotImplementedError

    @property
    def bos_id(self) -> int | None:
        """The token that starts a text, if the model has one."""
        raise NotImplementedError

    @property
    def pad_id(self) -> int:
        """The token to fill a batch with."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        raise NotImplementedError

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be encoded."""
        raise NotImplementedError

    def encode_example(
        self, example: ChatExample | CompletionExample | TextExample, max_length: int | None = None
    ) -> EncodedExample:
        """An example as tokens and weights, cut to `max_length` tokens. Raises TemplateError."""
        raise NotImplementedError

    def encode_preference(self, example: PreferenceExample, max_length: int | None = None) -> EncodedPair:
        """A preference as two token sequences with one prompt. Raises TemplateError."""
        raise NotImplementedError

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """A conversation as the prompt for the assistant's next turn. Raises TemplateError."""
        raise NotImplementedError

    def encode_text(self, text: str) -> list[int]:
        """Plain text as a prompt, with the start token if the model wants one; special tokens are not recognised."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some tokens."""
        raise NotImplementedError
