"""Base models."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A registered model that adapters are trained on and served with."""

    base_model_id: str
    display_name: str
    source: str
    """A folder or a hub id."""
    revision: str
    architecture: str
    context_length: int
    parameter_count: int
    vocabulary_size: int
    tokenizer_digest: str
    has_chat_template: bool
    is_default: bool
    create_time: datetime
    etag_revision: int = 1

    @property
    def name(self) -> str:
        """`baseModels/{base_model}`."""
        return f"baseModels/{self.base_model_id}"
