"""From examples to token ids with a base model's own tokenizer and chat template; needs neither torch nor transformers.

`ChatTokenizer` is imported when it is first asked for: the rest does without the packages `tokenizers` and `jinja2`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trellis.tokens.encoded import EncodedExample, EncodedPair
from trellis.tokens.errors import TemplateError, TokenizerFilesError, TokensError
from trellis.tokens.stream import StreamDecoder

if TYPE_CHECKING:
    from trellis.tokens.chat import ChatTokenizer

__all__ = [
    "ChatTokenizer",
    "EncodedExample",
    "EncodedPair",
    "StreamDecoder",
    "TemplateError",
    "TokenizerFilesError",
    "TokensError",
]


def __getattr__(name: str) -> Any:
    if name == "ChatTokenizer":
        return import_module("trellis.tokens.chat").ChatTokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
