"""Answers: tables for people, JSON for programs. JSON has the fields of the API in snake_case and is stable."""

import dataclasses
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click


def document(value: Any) -> Any:
    """A result as JSON knows it: times in ISO 8601, spans in seconds, enums by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: document(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): document(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [document(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.total_seconds() if isinstance(value, timedelta) else value


def print_json(value: Any) -> None:
    """One document."""
    click.echo(json.dumps(document(value), indent=2, ensure_ascii=False))


def print_line(value: Any) -> None:
    """One document on a line of its own, at once: for streams."""
    click.echo(json.dumps(document(value), ensure_ascii=False))


def print_many(items: Iterable[Any], columns: Sequence[str], *, as_json: bool) -> None:
    """A list: one JSON array, or a table of these fields."""
    if as_json:
        print_json(list(items))
        return
    rows = [[cell(getattr(item, column)) for column in columns] for item in items]
    print_table([column.replace("_", " ").upper() for column in columns], rows)


def print_one(item: Any, *, as_json: bool) -> None:
    """One resource: a JSON object, or a line for each field that says something."""
    if as_json:
        print_json(item)
        return
    print_fields({name: value for name, value in document(item).items() if value not in ("", None, [], {})})


def print_fields(fields: Mapping[str, Any], indent: str = "") -> None:
    """A line for each field."""
    width = max((len(name) for name in fields), default=0) + 2
    for name, value in fields.items():
        label = click.style(f"{indent}{name.replace('_', ' '):<{width}}", dim=True)
        if isinstance(value, Mapping):
            click.echo(label.rstrip())
            print_fields({k: v for k, v in value.items() if v not in ("", None, [], {})}, indent + "  ")
        else:
            click.echo(label + (", ".join(map(str, value)) if isinstance(value, list) else str(value)))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool = False) -> None:
    """Columns as wide as they need to be, never cut: tables are also read by grep and awk."""
    widths = [max(map(_width, column)) for column in zip(head, *rows, strict=True)]
    click.echo(click.style(_line(head, widths), bold=True), err=err)
    for row in rows:
        click.echo(_line(row, widths), err=err)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
    return "   ".join(padded).rstrip()


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def cell(value: Any) -> str:
    """A value in a table."""
    if value in (None, "", ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return clean(str(value))


def clean(text: str) -> str:
    """Text that others wrote, without what would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def said(text: str, *, as_json: bool) -> None:
    """A remark for people, beside the answer."""
    if not as_json:
        click.echo(text, err=True)


def deleted(name: str, *, as_json: bool) -> None:
    """Say that something is gone."""
    if as_json:
        print_json({"deleted": name})
    said(f"Deleted {name}.", as_json=as_json)


def size(count: int) -> str:
    """Bytes for people."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
