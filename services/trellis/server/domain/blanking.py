"""Secrets taken out of text that is kept: the second line behind never writing them at all."""

import re
from typing import Final

BLANK: Final = "[secret]"
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}")
_PASSWORD = re.compile(r"(://[^/\s:@\"']*:)[^/\s@\"']+(?=@)")
_SHAPED = re.compile(
    r"(?<![A-Za-z0-9])tr[a-z]_[A-Za-z0-9_-]{12,}"  # keys, tokens and tickets of this platform; a shown prefix is shorter
    r"|\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"  # a JSON web token
)


def blanked(text: str) -> str:
    """The text without what looks like a key, a token, a bearer's credential or a password in a URL."""
    without = _BEARER.sub(rf"\1{BLANK}", text)
    return _SHAPED.sub(BLANK, _PASSWORD.sub(rf"\1{BLANK}", without))
