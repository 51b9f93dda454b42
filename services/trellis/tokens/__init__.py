"""From examples to token ids with a base model's own tokenizer and chat template; needs neither torch nor transformers."""

from trellis.tokens.chat import ChatTokenizer
from trellis.tokens.encoded import EncodedExample, EncodedPair
from trellis.tokens.errors import TemplateError, TokenizerFilesError, TokensError
from trellis.tokens.stream import StreamDecoder

__all__ = [
    "ChatTokenizer",
    "EncodedExample",
    "EncodedPair",
    "StreamDecoder",
    "TemplateError",
    "TokenizerFilesError",
    "TokensError",
]
