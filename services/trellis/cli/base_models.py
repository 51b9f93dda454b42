"""`trellis base-models …`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from trellis.base_cache.cache import VARIABLE, cached
from trellis.base_cache.errors import BaseCacheError
from trellis.cli.commands import group
from trellis.cli.output import deleted, print_json, print_many, print_one, print_table, said, size
from trellis.cli.state import State


@group("base-models")
def base_models() -> None:
    """Models that adapters are trained on."""


@base_models.command("register")
@click.argument("name")
@click.option(
    "--path",
    "source",
    required=True,
    help="A folder that the server sees, a hub id such as ORG/MODEL, or s3://BUCKET/PREFIX that is in its cache.",
)
@click.option("--revision", default="", help="The hub's revision.")
@click.option("--display-name", default="", help="What people call it.")
@click.option("--default", is_flag=True, help="Use it where none is named.")
@click.pass_obj
def register(state: State, name: str, source: str, revision: str, display_name: str, default: bool) -> None:
    """Register a model of transformers."""
    here = Path(source).expanduser()
    place = str(here.absolute()) if here.is_dir() else source
    made = state.client.base_models.create(
        name, source=place, revision=revision, display_name=display_name, default=default
    )
    print_one(made, as_json=state.json)


@base_models.command("get")
@click.argument("name")
@click.pass_obj
def get(state: State, name: str) -> None:
    """Show a base model."""
    print_one(state.client.base_models.get(name), as_json=state.json)


@base_models.command("list")
@click.pass_obj
def list_(state: State) -> None:
    """List the base models."""
    columns = ("name", "architecture", "parameter_count", "context_length", "is_default", "source")
    print_many(state.client.base_models.list(), columns, as_json=state.json)


@base_models.command("delete")
@click.argument("name")
@click.pass_obj
def delete(state: State, name: str) -> None:
    """Take a base model out of the register; its files stay."""
    state.client.base_models.delete(name)
    deleted(name, as_json=state.json)


def _cache_option(function: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option(
        "--cache", type=click.Path(file_okay=False, path_type=Path), help=f"The cache's folder.  [default: {VARIABLE}]"
    )
    return option(function)


@base_models.command("fetch")
@click.argument("source")
@click.option("--revision", default="", help="A commit, tag or branch of the hub, or the digest sha256:….")
@click.option("--offline", is_flag=True, help="Ask nobody: fail unless it is in the cache.")
@_cache_option
@click.pass_obj
def fetch(state: State, source: str, revision: str, offline: bool, cache: Path | None) -> None:
    """Fetch a base into a cache on this machine: a hub id, s3://bucket/prefix, or a folder.

    HF_TOKEN opens gated models of the hub, AWS_… variables a bucket. A fetch that was cut goes on where it was.
    """
    from trellis.cli.fetching import fetch_shown

    try:
        print_one(fetch_shown(source, revision, _cache(cache), offline=offline, quiet=state.json), as_json=state.json)
    except BaseCacheError as error:
        raise click.ClickException(str(error)) from None


@base_models.command("cached")
@_cache_option
@click.pass_obj
def cached_(state: State, cache: Path | None) -> None:
    """List the bases in a cache on this machine, with their sizes."""
    try:
        found = list(cached(_cache(cache)))
    except BaseCacheError as error:
        raise click.ClickException(str(error)) from None
    if state.json:
        rows = [{"source": b.source, "revision": b.revision, "bytes": b.bytes, "path": str(b.path)} for b in found]
        print_json(rows)
        return
    print_table(
        ("SOURCE", "REVISION", "SIZE", "PATH"), [(b.source, b.revision, size(b.bytes), str(b.path)) for b in found]
    )


@base_models.command("verify")
@click.argument("source")
@click.option("--revision", default="", help="Which one; without it, what was fetched last.")
@_cache_option
@click.pass_obj
def verify(state: State, source: str, revision: str, cache: Path | None) -> None:
    """Hash every file of a base in a cache on this machine, and say which ones are damaged."""
    from trellis.cli.fetching import damages_of

    try:
        damages = damages_of(source, revision, _cache(cache))
    except BaseCacheError as error:
        raise click.ClickException(str(error)) from None
    if state.json:
        print_json({"source": source, "damages": damages})
    for damage in damages:
        said(damage, as_json=state.json)
    if damages:
        hint = f"python -m trellis.base_cache {source} --verify"
        raise click.ClickException(f"{source} is damaged; this fetches again what is: {hint}")
    said(f"All files of {source} are what was fetched.", as_json=state.json)


def _cache(given: Path | None) -> Path:
    named = given or os.environ.get(VARIABLE, "").strip()
    if not named:
        raise click.UsageError(f"Say where the cache is, with --cache or {VARIABLE}.")
    return Path(named).expanduser()
