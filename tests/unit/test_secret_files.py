"""Files for their owner alone."""

import os
import stat
from pathlib import Path

import pytest

from trellis.secret_files import make_secret_file, open_secret_file, replace_secret_file, write_secret_file


@pytest.fixture(autouse=True)
def generous() -> object:
    """What processes make is readable by all here, unless they say otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_secret_file(path, "tr_é\n")
    assert (path.read_text(encoding="utf-8"), mode(path)) == ("tr_é\n", 0o600)
    with pytest.raises(FileExistsError):
        write_secret_file(path, "other")
    assert not make_secret_file(path, "other")
    assert path.read_text(encoding="utf-8") == "tr_é\n"
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    assert make_secret_file(path, "one")
    replace_secret_file(path, "two")
    assert (path.read_text(), mode(path)) == ("two", 0o600)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write, name in ((replace_secret_file, "key"), (make_secret_file, "new")):
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / name, "three")
    assert path.read_text() == "two"
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_file_that_is_there_is_opened_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    os.close(open_secret_file(path, os.O_RDWR))
    assert mode(path) == 0o600
    path.write_text("kept")
    os.close(open_secret_file(path, os.O_RDWR))
    assert path.read_text() == "kept"
