"""The model card, filled with what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template

from evaluation import HeldOut, Reach
from recipe import Recipe

_TEXT = Path(__file__).with_name("model_card.md")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the card says about one finished training."""

    recipe: Recipe
    parameters: int
    tokens: int
    seconds: float
    held_out: HeldOut
    reach: Reach
    samples: dict[str, str]


def write_card(folder: Path, facts: Facts) -> None:
    """Write the card as README.md."""
    text = Template(_TEXT.read_text(encoding="utf-8")).substitute(_values(facts))
    (folder / "README.md").write_text(text, encoding="utf-8")


def _values(facts: Facts) -> dict[str, str]:
    recipe, shape = facts.recipe, facts.recipe.shape
    return {
        "parameters": f"{facts.parameters / 1e6:.2f} M",
        "layers": str(shape.num_hidden_layers),
        "hidden": str(shape.hidden_size),
        "intermediate": str(shape.intermediate_size),
        "heads": str(shape.num_attention_heads),
        "kv_heads": str(shape.num_key_value_heads),
        "vocabulary": str(shape.vocab_size),
        "positions": str(shape.max_position_embeddings),
        "stages": _stages(recipe),
        "task_share": f"{recipe.task_share:.0%}",
        "learning_rate": f"{recipe.learning_rate:g}",
        "batch": f"{recipe.batch_tokens:,}",
        "seed": str(recipe.seed),
        "tokens": f"{facts.tokens / 1e6:.1f} M",
        "minutes": f"{facts.seconds / 60:.0f}",
        "held_out_share": f"{recipe.held_out_share:.0%}",
        "held_out_dialogues": f"{facts.held_out.dialogues:,}",
        "held_out_tokens": f"{facts.held_out.tokens:,}",
        "perplexity": f"{facts.held_out.perplexity:.2f}",
        "first_quarter": f"{facts.reach.first_quarter:.2f}",
        "last_quarter": f"{facts.reach.last_quarter:.2f}",
        "samples": "\n".join(_sample_row(prompt, said) for prompt, said in facts.samples.items()),
    }


def _stages(recipe: Recipe) -> str:
    ends = [*(stage.start for stage in recipe.stages[1:]), 1.0]
    shares = [(stage.row_tokens, end - stage.start) for stage, end in zip(recipe.stages, ends, strict=True)]
    return ", ".join(f"{length} tokens for {share:.0%}" for length, share in shares)


def _sample_row(prompt: str, said: str) -> str:
    return f"| {_cell(prompt)} | {_cell(said)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
