"""The files of a base model that say how it reads text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trellis.tokens.errors import TokenizerFilesError


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a base model's folder says about its tokenizer.

    `named_tokens` maps names such as `eos_token` to their text; `add_bos` is None when the folder leaves it to the
    tokenizer itself; `tool_template` is used for conversations with tools where a model has one of its own.
    """

    tokenizer: str
    template: str | None
    tool_template: str | None = None
    named_tokens: dict[str, str] = field(default_factory=dict)
    eos_ids: tuple[int, ...] = ()
    add_bos: bool | None = None


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read them. Raises TokenizerFilesError when there is no tokenizer.json, or a file is not what it should be."""
    tokenizer = _text(folder / "tokenizer.json")
    if tokenizer is None:
        raise TokenizerFilesError("invalid_tokenizer", "The base model has no tokenizer.json.")
    config = _json_object(folder / "tokenizer_config.json")
    template, tool_template = _templates(folder, config)
    add_bos = config.get("add_bos_token")
    return TokenizerFiles(
        tokenizer=tokenizer,
        template=template,
        tool_template=tool_template,
        named_tokens=_named(_json_object(folder / "special_tokens_map.json")) | _named(config),
        eos_ids=_ids(_json_object(folder / "generation_config.json").get("eos_token_id")),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
    )


def _templates(folder: Path, config: dict[str, Any]) -> tuple[str | None, str | None]:
    found = _text(folder / "chat_template.jinja")
    if found is not None:
        return found, None
    given = config.get("chat_template")
    if isinstance(given, list):
        named = {item.get("name"): item.get("template") for item in given if isinstance(item, dict)}
        return named.get("default"), named.get("tool_use")
    return (given if isinstance(given, str) else None), None


def _named(config: dict[str, Any]) -> dict[str, str]:
    """Named tokens are written as text, or as an object with more about them."""
    found = {}
    for key, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            found[key] = text
    return found


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, int) and not isinstance(item, bool))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerFilesError("invalid_tokenizer", f"{path.name} cannot be read ({error}).") from None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "{}")
    except ValueError as error:
        raise TokenizerFilesError("invalid_tokenizer", f"{path.name} is not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise TokenizerFilesError("invalid_tokenizer", f"{path.name} does not hold an object.")
    return value
