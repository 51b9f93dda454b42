"""`trellis config …`."""

import sys
from dataclasses import asdict, replace
from pathlib import Path

import click

from trellis.cli.commands import group
from trellis.cli.output import deleted, print_json, print_table, said
from trellis.cli.state import State
from trellis.client.profiles import Profile, Profiles, config_path, load_profiles, save_profiles

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@group("config")
def config() -> None:
    """Profiles: where to call, and as whom."""


@config.command("set-profile")
@click.argument("name")
@click.option("--ask-key", is_flag=True, help="Ask for the API key, or read it from standard input.")
@click.option("--ca-file", type=_FILE, help="Certificates to trust.")
@click.option("--certificate-file", type=_FILE, help="Your own certificate, if the server asks for one.")
@click.option("--certificate-key-file", type=_FILE, help="Its key.")
@click.pass_obj
def set_profile(state: State, /, name: str, ask_key: bool, **files: Path | None) -> None:
    """Make or change a profile: --endpoint, --tenant, --api-key-file or --ask-key. The first one is used by default."""
    path = config_path()
    known = load_profiles(path)
    profile = known.profiles.get(name, Profile())
    if state.endpoint is not None:
        profile = replace(profile, endpoint=state.endpoint)
    if state.tenant is not None:
        profile = replace(profile, tenant=state.tenant)
    if state.api_key_file is not None:
        profile = replace(profile, api_key="", api_key_file=str(state.api_key_file.expanduser().absolute()))
    if ask_key:
        profile = replace(profile, api_key=_asked_key(), api_key_file="")
    profile = replace(profile, **{field: str(path.absolute()) for field, path in files.items() if path is not None})
    save_profiles(path, Profiles(known.current or name, {**known.profiles, name: profile}))
    if state.json:
        print_json(_shown(name, profile, known.current or name))
    said(f"Saved profile {name} in {path}.", as_json=state.json)


def _asked_key() -> str:
    asked = sys.stdin.isatty()
    key: str = click.prompt("API key", hide_input=True, err=True) if asked else sys.stdin.readline()
    return key.strip()


@config.command("list")
@click.pass_obj
def list_(state: State) -> None:
    """List the profiles; keys are not shown."""
    known = load_profiles(config_path())
    shown = [_shown(name, profile, known.current) for name, profile in sorted(known.profiles.items())]
    if state.json:
        print_json(shown)
        return
    rows = [["*" if one["current"] else "", *(str(one[k]) or "-" for k in _COLUMNS)] for one in shown]
    print_table(["", *(column.upper() for column in _COLUMNS)], rows)


_COLUMNS = ("name", "endpoint", "tenant", "key")


def _shown(name: str, profile: Profile, current: str) -> dict[str, str | bool]:
    key = profile.api_key_file or ("in the profile" if profile.api_key else "")
    values = {k: v for k, v in asdict(profile).items() if k not in {"api_key", "api_key_file"}}
    return {"name": name, **values, "key": key, "current": name == current}


@config.command("use")
@click.argument("name")
@click.pass_obj
def use(state: State, name: str) -> None:
    """Use a profile where none is named."""
    path = config_path()
    known = load_profiles(path)
    profile = known.named(name)
    save_profiles(path, Profiles(name, known.profiles))
    if state.json:
        print_json(_shown(name, profile, name))
    said(f"Now using profile {name}.", as_json=state.json)


@config.command("delete")
@click.argument("name")
@click.pass_obj
def delete(state: State, name: str) -> None:
    """Forget a profile."""
    path = config_path()
    known = load_profiles(path)
    known.named(name)
    rest = {other: profile for other, profile in known.profiles.items() if other != name}
    save_profiles(path, Profiles("" if known.current == name else known.current, rest))
    deleted(name, as_json=state.json)
