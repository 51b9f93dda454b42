"""JSON of the strict grammar: no NaN, no key twice, no half of a surrogate pair."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from trellis.formats.errors import Problems

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_FAILED = object()


class _DuplicateKey(ValueError):
    pass


class _Constant(ValueError):
    pass


def read_json(text: bytes | str, path: str, problems: Problems) -> Any:
    """The value that the text spells; None and a problem at `path` when it spells none.

    A key that comes twice in an object is refused, as readers differ in which one they take.
    """
    value = _loads(text, path, problems)
    if value is _FAILED:
        return None
    if value is None:
        problems.add(path, "data_type", "There is null where an object should be.")
    return value


def _loads(text: bytes | str, path: str, problems: Problems) -> Any:
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        value = _DECODER.decode(decoded)
    except UnicodeDecodeError as error:
        problems.add(
            path, "invalid_encoding", f"The line is not UTF-8 at its byte {error.start + 1}.", "Save the file as UTF-8."
        )
    except _DuplicateKey as error:
        problems.add(path, "duplicate_key", f"The key {error} comes twice in one object.", "Remove one of the two.")
    except _Constant as error:
        problems.add(path, "invalid_json", f"{error} is not a JSON number.", "Write a finite number or null.")
    except json.JSONDecodeError as error:
        problems.add(path, "invalid_json", _syntax(error), "Write one complete JSON object a line.")
    except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        reason = "It is nested too deeply" if isinstance(error, RecursionError) else "A number is too long"
        problems.add(path, "invalid_json", f"{reason} to be read.", "Simplify the line.")
    else:
        if _SURROGATE_ESCAPE.search(decoded):
            _check_surrogates(value, path, problems)
        return value
    return _FAILED


def _syntax(error: json.JSONDecodeError) -> str:
    return f"The text is not valid JSON: {error.msg} at character {error.pos + 1}."


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _DuplicateKey(repr(next(key for key, _ in pairs if key in seen or seen.add(key))[:80]))  # type: ignore[func-returns-value]
    return found


def _constant(name: str) -> NoReturn:
    raise _Constant(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


def _check_surrogates(value: Any, path: str, problems: Problems) -> None:
    for where, text in _strings(value, path):
        if any("\ud800" <= character <= "\udfff" for character in text):
            message = "The text holds half of a surrogate pair (\\ud800 to \\udfff)."
            problems.add(where, "invalid_unicode", message, "Write the character itself, or both halves of its pair.")


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key, path)
            yield from _strings(item, f"{path}.{key[:80]}")
