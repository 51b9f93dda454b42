"""`trellis generate`."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import click

from trellis.cli.commands import command
from trellis.cli.output import print_line, said
from trellis.cli.state import State
from trellis.client.types import FinishReason, GenerationChunk


@command("generate")
@click.argument("prompt", required=False)
@click.option("--model", "-m", required=True, help="An alias, an adapter, or baseModels/NAME.")
@click.option("--system", help="What the system says first.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--temperature", type=float, help="0 is greedy.  [default: 1]")
@click.option("--top-p", type=float, help="[default: 1]")
@click.option("--top-k", type=int, help="[default: all]")
@click.option("--min-p", type=float, help="At least this share of the likeliest token's probability.  [default: 0]")
@click.option("--repetition-penalty", type=float, help="On tokens of the prompt and the answer.  [default: 1, none]")
@click.option("--presence-penalty", type=float, help="On tokens of the answer.  [default: 0]")
@click.option("--frequency-penalty", type=float, help="The same, for each time that it has them.  [default: 0]")
@click.option("--seed", type=int, help="[default: random]")
@click.option("--max-tokens", default=0, help="[default: 256]")
@click.option("--stop", multiple=True, help="End before this text; may be given again.")
@click.option("--logprobs", type=int, help="Show each token's log probability, and so many alternatives.")
@click.option("--n", default=1, help="So many answers, at most 8.  [default: 1]")
@click.option("--json-schema", type=click.File(encoding="utf-8"), help="Answer with JSON of the schema in this file.")
@click.option("--json-object", is_flag=True, help="Answer with a JSON object.")
@click.pass_obj
def generate(state: State, /, prompt: str | None, model: str, system: str | None, raw: bool, **options: Any) -> None:
    """Ask a model. The prompt is the argument, or comes from standard input."""
    text = sys.stdin.read() if prompt is None or prompt == "-" else prompt
    asked: dict[str, Any] = {"prompt": text} if raw else {"messages": text}
    schema: TextIO | None = options["json_schema"]
    options["json_schema"] = schema.read() if schema else None
    with state.client.generate_stream(model, system=system, **asked, **options) as chunks:
        for chunk in chunks if state.json or options["n"] == 1 else _one_by_one(chunks):
            _show(state, chunk, numbered=options["n"] > 1)


def _one_by_one(chunks: Iterable[GenerationChunk]) -> Iterator[GenerationChunk]:
    """The pieces of several answers, those of each together, in the order in which the answers are complete."""
    held: dict[int, list[GenerationChunk]] = {}
    for chunk in chunks:
        held.setdefault(chunk.index, []).append(chunk)
        if chunk.finish_reason is not FinishReason.UNSPECIFIED:
            yield from held.pop(chunk.index)


def _show(state: State, chunk: GenerationChunk, *, numbered: bool) -> None:
    if state.json:
        print_line(chunk)
        return
    if not chunk.logprobs:
        click.echo(chunk.text, nl=False)
    for token in chunk.logprobs:
        others = "  ".join(f"{other.text!r} {other.logprob:.3f}" for other in token.alternatives)
        click.echo(f"{token.logprob:8.3f}  {token.text!r:<20} {others}".rstrip())
    if chunk.finish_reason is not FinishReason.UNSPECIFIED:
        click.echo()
        said(click.style(f"[{_ending(chunk, numbered=numbered)}]", dim=True), as_json=False)


def _ending(chunk: GenerationChunk, *, numbered: bool) -> str:
    found = [f"answer {chunk.index}"] if numbered else []
    found.append(chunk.finish_reason.value.lower())
    if chunk.usage is not None:
        found.append(f"{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens")
    return ", ".join(found)
