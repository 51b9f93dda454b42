"""What can go wrong between an example and its tokens."""

from __future__ import annotations


class TokensError(ValueError):
    """The root of this package's errors; `code` is stable and machine-readable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return self.message


class TokenizerFilesError(TokensError):
    """A base model's folder does not hold a tokenizer that can be used (code `invalid_tokenizer`)."""


class TemplateError(TokensError):
    """A conversation and a chat template do not go together.

    Codes: `no_chat_template`, `template_rejected`, `template_not_prefix`, `special_token_in_content`.
    """
