"""`trellis keys …`."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from trellis.cli.commands import group
from trellis.cli.output import print_json, print_many, print_one, said
from trellis.cli.state import State
from trellis.client.types import CreatedApiKey, Role, Scope
from trellis.secret_files import write_secret_file

_UNITS = {"m": 60, "h": 3600, "d": 86400}


class Span(click.ParamType[timedelta]):
    """A span of time such as `90m`, `12h` or `30d`."""

    name = "SPAN"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it."""
        match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a span such as 90m, 12h or 30d.", param, ctx)
        return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


@group("keys")
def keys() -> None:
    """API keys."""


_SCOPES = ["read", "write", "generate", "manage"]
_secret_file = click.option(
    "--secret-file", type=click.Path(dir_okay=False, path_type=Path), help="Write the secret to a new file."
)


def _expires(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--expires", "--expires-in", "expires_in", type=Span(), help=text)


platform_option = click.option("--platform", is_flag=True, help="The platform's own keys, not a tenant's.")


@keys.command("create")
@click.option("--role", type=click.Choice(["member", "tenant-admin", "admin"]), help="[default: member]")
@click.option("--display-name", default="", help="What it is for.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(_SCOPES), help="Narrow the key to this; repeatable."
)
@_expires("Such as 90m, 12h or 90d.  [default: never]")
@_secret_file
@platform_option
@click.pass_obj
def create(
    state: State,
    role: str | None,
    display_name: str,
    scopes: tuple[str, ...],
    expires_in: timedelta | None,
    secret_file: Path | None,
    platform: bool,
) -> None:
    """Create a key and show its secret, this once."""
    _must_be_new(secret_file)
    chosen = role or ("admin" if platform else "member")
    made = state.client.api_keys.create(
        "platform" if platform else None,
        role=Role(chosen.upper().replace("-", "_")),
        display_name=display_name,
        expire_time=_end(expires_in),
        scopes=[Scope(scope.upper()) for scope in scopes],
    )
    _show(state, made, secret_file)


@keys.command("rotate")
@click.argument("name")
@click.option("--overlap", type=Span(), help="So long the old secret still opens, such as 24h.  [default: not at all]")
@_expires("The key's new end, such as 90d from now.  [default: unchanged]")
@_secret_file
@click.pass_obj
def rotate(
    state: State, name: str, overlap: timedelta | None, expires_in: timedelta | None, secret_file: Path | None
) -> None:
    """Give a key a new secret and show it, this once."""
    _must_be_new(secret_file)
    made = state.client.api_keys.rotate(name, overlap=overlap or timedelta(0), expire_time=_end(expires_in))
    _show(state, made, secret_file)


def _end(expires_in: timedelta | None) -> datetime | None:
    return datetime.now(UTC) + expires_in if expires_in else None


def _must_be_new(path: Path | None) -> None:
    if path and path.exists():
        raise click.UsageError(f"{path} exists already.")


def _show(state: State, made: CreatedApiKey, secret_file: Path | None) -> None:
    if secret_file:
        write_secret_file(secret_file, made.secret + "\n")
    if state.json:
        print_json({"api_key": made.api_key, "secret": None if secret_file else made.secret})
        return
    print_one(made.api_key, as_json=False)
    if secret_file:
        said(f"The secret is in {secret_file}.", as_json=False)
    else:
        click.echo(f"secret        {made.secret}")
        said("Keep the secret now: it is not shown again.", as_json=False)


@keys.command("get")
@click.argument("name")
@click.pass_obj
def get(state: State, name: str) -> None:
    """Show a key, without its secret."""
    print_one(state.client.api_keys.get(name), as_json=state.json)


@keys.command("list")
@platform_option
@click.pass_obj
def list_(state: State, platform: bool) -> None:
    """List keys, revoked ones too."""
    columns = ("name", "role", "scopes", "prefix", "display_name", "last_use_time", "expire_time", "revoke_time")
    print_many(state.client.api_keys.list("platform" if platform else None), columns, as_json=state.json)


@keys.command("revoke")
@click.argument("name")
@click.pass_obj
def revoke(state: State, name: str) -> None:
    """Revoke a key, at once and for good."""
    print_one(state.client.api_keys.revoke(name), as_json=state.json)
