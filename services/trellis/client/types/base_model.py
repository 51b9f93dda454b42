"""Base models."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model that adapters are trained on."""

    name: str
    display_name: str
    source: str
    revision: str
    architecture: str
    context_length: int
    """The longest sequence, in tokens."""
    parameter_count: int
    vocabulary_size: int
    tokenizer_digest: str
    has_chat_template: bool
    is_default: bool
    create_time: datetime | None
    etag: str
