"""Profiles: named endpoints and keys in a file that only its owner may read."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trellis.secret_files import replace_secret_file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class ProfileError(ValueError):
    """The file of profiles, or what is asked of it, is wrong; `str()` says where and how."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a client needs to know; what is empty is decided elsewhere."""

    endpoint: str = ""
    api_key: str = field(default="", repr=False)
    api_key_file: str = ""
    """A file that holds the key, such as the one that `trellis up` writes."""
    tenant: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    """The client's own certificate, where the server asks for one, and its key."""
    certificate_key_file: str = ""

    def key(self) -> str:
        """The key, from the file if one is named; raises ProfileError when it can't be read."""
        return read_key(Path(self.api_key_file)) if self.api_key_file else self.api_key


@dataclass(frozen=True, slots=True)
class Profiles:
    """All profiles, and which one is used when none is named."""

    current: str = ""
    profiles: Mapping[str, Profile] = field(default_factory=dict)

    def named(self, name: str) -> Profile:
        """The profile of this name; raises ProfileError."""
        try:
            return self.profiles[name]
        except KeyError:
            known = ", ".join(sorted(self.profiles)) or "none yet"
            raise ProfileError(f"There is no profile {name!r}; there are: {known}.") from None


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """`$TRELLIS_CONFIG`, else `trellis/config.toml` in `$XDG_CONFIG_HOME` or `~/.config`."""
    env = os.environ if environ is None else environ
    if env.get("TRELLIS_CONFIG"):
        return Path(env["TRELLIS_CONFIG"])
    return Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "trellis" / "config.toml"


def load_profiles(path: Path) -> Profiles:
    """Read the file; none is as good as an empty one. Raises ProfileError."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Profiles()
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path} can't be read: {error}") from error
    tables = data.get("profiles", {})
    if not isinstance(tables, dict):
        raise ProfileError(f"{path}: `profiles` must be tables, such as [profiles.local].")
    return Profiles(str(data.get("current", "")), {name: _profile(path, name, table) for name, table in tables.items()})


def _profile(path: Path, name: str, table: Any) -> Profile:
    known = set(asdict(Profile()))
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise ProfileError(f"{path}: [profiles.{name}] must hold strings.")
    unknown = table.keys() - known
    if unknown:
        raise ProfileError(f"{path}: [profiles.{name}] has the unknown field {min(unknown)!r}; known: {sorted(known)}.")
    return Profile(**table)


def save_profiles(path: Path, profiles: Profiles) -> None:
    """Write the file, whole or not at all, readable by its owner alone. Raises ProfileError for a wrong name."""
    for name in profiles.profiles:
        if not _NAME.fullmatch(name):
            raise ProfileError(f"{name!r} can't name a profile: use 1 to 63 of letters, digits, '_' and '-'.")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_secret_file(path, _to_toml(profiles))


def _to_toml(profiles: Profiles) -> str:
    lines = [f"current = {_quoted(profiles.current)}"] if profiles.current else []
    for name, profile in sorted(profiles.profiles.items()):
        lines += ["", f"[profiles.{name}]"]
        lines += [f"{key} = {_quoted(value)}" for key, value in asdict(profile).items() if value]
    return "\n".join(lines).lstrip() + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True).replace("\x7f", "\\u007f")  # JSON's strings are TOML's, but for DEL


def read_key(path: Path) -> str:
    """The key that a file holds; raises ProfileError."""
    try:
        key = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ProfileError(f"The API key's file {path} can't be read: {error}") from error
    if not key:
        raise ProfileError(f"The API key's file {path} is empty.")
    return key
