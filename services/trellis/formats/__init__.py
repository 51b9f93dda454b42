"""The rules of a dataset: how files are read, what a line may say, what is held out. Pure; the same in SDK and server."""

from trellis.formats.digests import DigestSet, example_digest
from trellis.formats.errors import CODES, FormatError, InvalidLines, LineError
from trellis.formats.examples import (
    ChatExample,
    CompletionExample,
    Example,
    Kind,
    Message,
    PreferenceExample,
    TextExample,
    kind_of,
)
from trellis.formats.files import HEAD_BYTES, FileFormat, detect_format
from trellis.formats.held_out import HeldOut, choose_held_out
from trellis.formats.parse import Reading, parse_row, read_examples, read_row
from trellis.formats.raw_row import MAX_LINE_BYTES, RawRow
from trellis.formats.rows import open_rows

__all__ = [
    "CODES",
    "HEAD_BYTES",
    "MAX_LINE_BYTES",
    "ChatExample",
    "CompletionExample",
    "DigestSet",
    "Example",
    "FileFormat",
    "FormatError",
    "HeldOut",
    "InvalidLines",
    "Kind",
    "LineError",
    "Message",
    "PreferenceExample",
    "RawRow",
    "Reading",
    "TextExample",
    "choose_held_out",
    "detect_format",
    "example_digest",
    "kind_of",
    "open_rows",
    "parse_row",
    "read_examples",
    "read_row",
]
