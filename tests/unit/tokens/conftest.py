from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.tokens import bases

from trellis.tokens import ChatTokenizer

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "chatml": bases.chatml,
    "chatml-generation": lambda folder: bases.chatml(folder, bases.CHATML_GENERATION),
    "llama3": bases.llama3,
    "mistral": bases.mistral,
}


@pytest.fixture(scope="session")
def base_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def tokenizers_by_base(base_folders: dict[str, Path]) -> dict[str, ChatTokenizer]:
    return {name: ChatTokenizer.load(folder) for name, folder in base_folders.items()}


@pytest.fixture(params=list(BUILDERS))
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(base: str, base_folders: dict[str, Path]) -> Path:
    return base_folders[base]


@pytest.fixture
def tokenizer(base: str, tokenizers_by_base: dict[str, ChatTokenizer]) -> ChatTokenizer:
    return tokenizers_by_base[base]
