"""`trellis generate`."""

import sys
from typing import Any

import click

from trellis.cli.commands import command
from trellis.cli.output import print_line, said
from trellis.cli.state import State
from trellis.client.types import GenerationChunk


@command("generate")
@click.argument("prompt", required=False)
@click.option("--model", "-m", required=True, help="An alias, an adapter, or baseModels/NAME.")
@click.option("--system", help="What the system says first.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--temperature", type=float, help="0 is greedy.  [default: 1]")
@click.option("--top-p", type=float, help="[default: 1]")
@click.option("--top-k", type=int, help="[default: all]")
@click.option("--seed", type=int, help="[default: random]")
@click.option("--max-tokens", default=0, help="[default: 256]")
@click.option("--stop", multiple=True, help="End before this text; may be given again.")
@click.option("--logprobs", type=int, help="Show each token's log probability, and so many alternatives.")
@click.pass_obj
def generate(state: State, /, prompt: str | None, model: str, system: str | None, raw: bool, **options: Any) -> None:
    """Ask a model. The prompt is the argument, or comes from standard input."""
    text = sys.stdin.read() if prompt is None or prompt == "-" else prompt
    asked: dict[str, Any] = {"prompt": text} if raw else {"messages": text}
    with state.client.generate_stream(model, system=system, **asked, **options) as chunks:
        for chunk in chunks:
            _show(state, chunk)


def _show(state: State, chunk: GenerationChunk) -> None:
    if state.json:
        print_line(chunk)
        return
    if not chunk.logprobs:
        click.echo(chunk.text, nl=False)
    for token in chunk.logprobs:
        others = "  ".join(f"{other.text!r} {other.logprob:.3f}" for other in token.alternatives)
        click.echo(f"{token.logprob:8.3f}  {token.text!r:<20} {others}".rstrip())
    if chunk.usage is not None:
        click.echo()
        used = f"{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens"
        said(click.style(f"[{chunk.finish_reason.value.lower()}, {used}]", dim=True), as_json=False)
