"""Marks put into a conversation before its template is rendered, and read back out of the rendered text.

Two things must be known of every character of a rendered conversation. Was it generated, that is, inside the template's
`{% generation %}`? And does it spell a special token that the *user* wrote, which must stay plain text? Both are marked
with characters that do not occur in the conversation, so nobody can forge a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Span = tuple[int, int]

_PRIVATE_USE: Final = range(0x10F000, 0x10FFF0, 4)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation without its marks, and where they were.

    `generated` are the spans of the template's `{% generation %}`; `plain` the spans that must be read as plain text
    (an empty one only separates the text on its two sides).
    """

    text: str
    generated: tuple[Span, ...] = ()
    plain: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Marks:
    """Four characters: the start and the end of what is generated, and of what is plain."""

    characters: str

    @classmethod
    def unlike(cls, text: str) -> Marks:
        """Marks that do not occur in `text`."""
        for start in _PRIVATE_USE:
            characters = "".join(map(chr, range(start, start + 4)))
            if not any(character in text for character in characters):
                return cls(characters)
        raise AssertionError("a text of a few megabytes cannot hold every private-use character of a plane")

    @property
    def generation(self) -> tuple[str, str]:
        """The marks around generated text."""
        return self.characters[0], self.characters[1]

    def put(self, value: Any, specials: re.Pattern[str]) -> Any:
        """The same JSON value with every special token in its strings marked as plain."""
        if isinstance(value, str):
            return specials.sub(rf"{self.characters[2]}\g<0>{self.characters[3]}", value)
        if isinstance(value, Mapping):
            return {self.put(key, specials): self.put(item, specials) for key, item in value.items()}
        return [self.put(item, specials) for item in value] if isinstance(value, (list, tuple)) else value

    def take_out(self, marked: str, specials: re.Pattern[str]) -> Rendered:
        """The rendered text without marks; a mark that the template has torn from its other half only separates."""
        start, end, plain, plain_end = tuple(self.characters)
        parts: list[str] = []
        generated: list[Span] = []
        plains: list[Span] = []
        opened: list[int] = []
        length, read = 0, 0
        pattern = rf"{plain}(?P<special>{specials.pattern}){plain_end}|[{self.characters}]"
        for match in re.finditer(pattern, marked, specials.flags):
            parts += [marked[read : match.start()], match["special"] or ""]
            length += match.start() - read
            read = match.end()
            if match[0] == start:
                opened.append(length)
            elif match[0] == end:
                generated.append((opened.pop() if opened else length, length))
            else:
                plains.append((length, length + len(parts[-1])))
                length += len(parts[-1])
        parts.append(marked[read:])
        return Rendered("".join(parts), tuple(generated), tuple(plains))


def strings_in(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from strings_in(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings_in(item)
