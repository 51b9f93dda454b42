"""A dataset's report for people: the finding, every error, and what is trained on."""

import sys
from collections.abc import Sequence

import click

from trellis.cli.output import cell, clean, print_fields, print_table
from trellis.client.types import DatasetReport, Preview
from trellis.formats import LineError

_SHOWN_LINES = 10


def show_report(report: DatasetReport, *, most_errors: int) -> None:
    """All of it."""
    colour = "green" if report.valid else "red"
    click.echo(click.style(report.summary or report.state.value, fg=colour, bold=True))
    print_fields(_facts(report))
    if report.error_count:
        click.echo()
        print_table(["CODE", "COUNT"], [[c.code, str(c.count)] for c in report.error_counts])
        click.echo()
        show_errors(report.errors[:most_errors], report.error_count)
    for preview in report.previews:
        _show_preview(preview)


def _facts(report: DatasetReport) -> dict[str, str]:
    lengths = report.lengths
    facts = {
        "base_model": report.base_model,
        "lines": f"{report.line_count:,} ({report.valid_line_count:,} valid), {report.kind} in {report.format}",
        "tokens": f"{report.token_count:,}, {report.trainable_token_count:,} of them trained on",
        "lengths": f"p50 {lengths.p50}, p90 {lengths.p90}, p99 {lengths.p99}, max {lengths.max} tokens",
        "held_out": f"{report.held_out_line_count:,} lines by default",
    }
    if report.cut_line_count:
        cut = f"{report.cut_line_count:,} lines are longer than {report.context_length} tokens"
        facts["cut"] = f"{cut}: {_lines(report.cut_lines, report.cut_line_count)}"
    if report.duplicate_line_count:
        again = f"{report.duplicate_line_count:,} lines repeat an earlier one"
        facts["duplicates"] = f"{again}: {_lines(report.duplicate_lines, report.duplicate_line_count)}"
    return facts


def _lines(lines: Sequence[int], count: int) -> str:
    shown = ", ".join(map(str, lines[:_SHOWN_LINES]))
    return shown + (", …" if count > _SHOWN_LINES else "")


def show_errors(errors: Sequence[LineError], count: int, *, err: bool = False) -> None:
    """The errors as a table."""
    rows = [[str(e.line or "-"), e.path, e.code, clean(e.message), cell(e.hint)] for e in errors]
    if rows:
        print_table(["LINE", "PATH", "CODE", "MESSAGE", "HINT"], rows, err=err)
    if count > len(rows):
        click.echo(f"… and {count - len(rows):,} more.", err=err)


def _show_preview(preview: Preview) -> None:
    """The line as the model reads it; what it is trained to write stands out, without colours in [[ ]]."""
    coloured = sys.stdout.isatty()
    click.echo(f"\n{click.style(f'Line {preview.line}', bold=True)} (what is trained on is highlighted):")
    for segment in preview.segments:
        text = "\n".join(clean(part) for part in segment.text.split("\n"))
        marked = click.style(text, fg="black", bg="green") if coloured else f"[[{text}]]"
        click.echo(marked if segment.trained else text, nl=False)
    click.echo()
