"""Dialogues: reading them from chat JSONL and splitting off the held-out ones."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Dialogue = list[Message]

_BUCKETS = 10_000


def read_folder(folder: Path) -> list[Dialogue]:
    """Return the dialogues of every `*.jsonl` and `*.jsonl.xz` in `folder`, by file name; raises FileNotFoundError if there are none."""
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.xz")])
    if not files:
        raise FileNotFoundError(f"no *.jsonl or *.jsonl.xz in {folder}")
    return [dialogue for file in files for dialogue in read_file(file)]


def read_file(file: Path) -> Iterator[Dialogue]:
    """Yield the `messages` of each line; raises ValueError, naming the line, where it is not a chat line."""
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            messages = json.loads(line).get("messages")
            if not messages or any("role" not in m or "content" not in m for m in messages):
                raise ValueError(f"{file.name}:{number}: not a chat line")
            yield messages


def is_held_out(dialogue: Dialogue, share: float) -> bool:
    """Tell whether the dialogue belongs to the held-out `share`, decided by its words alone."""
    words = "\n".join(message["content"] for message in dialogue)
    return int(hashlib.sha256(words.encode()).hexdigest(), 16) % _BUCKETS < share * _BUCKETS


def split(dialogues: Sequence[Dialogue], share: float) -> tuple[list[Dialogue], list[Dialogue]]:
    """Return (training, held-out) dialogues; equal dialogues always fall on the same side."""
    held_out = [dialogue for dialogue in dialogues if is_held_out(dialogue, share)]
    training = [dialogue for dialogue in dialogues if not is_held_out(dialogue, share)]
    return training, held_out
