"""`trellis admin size`: what fits on a GPU, and what a million tokens costs, by arithmetic over a base model's shape."""

import json
import re
from dataclasses import replace
from pathlib import Path

import click

from trellis.cli.commands import command
from trellis.cli.output import print_fields, print_json
from trellis.cli.state import State
from trellis.sizing import ACCELERATORS, BASES, Accelerator, ModelShape, Question, ShapeError, answer, shape_of_config

_LINEARS = tuple(BASES["llama-3.1-8b"].linears)
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class Bytes(click.ParamType[float]):
    """A count of bytes, such as 80GiB, 24GB or 1000."""

    name = "bytes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Bytes, from text."""
        if isinstance(value, (int, float)):
            return float(value)
        found = re.fullmatch(r"([0-9.]+)\s*([kMGT]i?|)B?", str(value).strip())
        if found is None or found[1].count(".") > 1 or found[1] == ".":
            self.fail(f"{value!r} is not a size like 80GiB or 24GB.", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@command("size")
@click.option("--base", type=click.Choice(sorted(BASES)), help="A well-known base model.")
@click.option("--config", type=click.Path(exists=True, path_type=Path), help="Its config.json, or the folder with it.")
@click.option("--gpu", type=click.Choice(sorted(ACCELERATORS)), default="h100-80gb", show_default=True, help="The GPU.")
@click.option("--gpu-memory", type=Bytes(), help="Of another GPU, such as 80GiB.")
@click.option("--gpu-bandwidth", type=Bytes(), help="Of its memory, a second, such as 2TB.")
@click.option("--gpu-tflops", type=click.FloatRange(0.1), help="In bf16, dense.")
@click.option("--rank", type=click.IntRange(1, 256), default=16, show_default=True, help="Of the adapters.")
@click.option("--target", "targets", type=click.Choice(_LINEARS), multiple=True,
              help="A linear that they change; may be given several times, all of them by default.")  # fmt: skip
@click.option(
    "--adapters", type=click.IntRange(1), default=64, show_default=True, help="In an engine's memory at once."
)
@click.option("--context", type=click.IntRange(1), default=1024, show_default=True, help="Tokens of a call on average.")
@click.option("--answers", type=click.IntRange(1), default=32, show_default=True, help="Calls answered at once.")
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="Of a job.")
@click.option("--dataset", type=Bytes(), default="10MB", show_default=True, help="Bytes of a job's dataset.")
@click.option("--hour-price", type=click.FloatRange(0), default=0.0, help="Of one GPU, in any currency, for costs.")
@click.option("--reading", type=click.FloatRange(0.01, 1), default=0.6, show_default=True,
              help="Of the bandwidth that answers reach: an assumption, measure yours.")  # fmt: skip
@click.option("--computing", type=click.FloatRange(0.01, 1), default=0.4, show_default=True,
              help="Of the peak that prompts and training reach: likewise.")  # fmt: skip
@click.pass_obj
def size(
    state: State,
    /,
    base: str | None,
    config: Path | None,
    gpu: str,
    gpu_memory: float | None,
    gpu_bandwidth: float | None,
    gpu_tflops: float | None,
    dataset: float,
    **values: float | tuple[str, ...],
) -> None:
    """Say what fits on a GPU, what a job leaves behind, and what a million tokens costs.

    Arithmetic, nothing is measured or asked: docs/sizing.md has the formulas.
    """
    given = {"memory": gpu_memory, "bandwidth": gpu_bandwidth, "flops": gpu_tflops and gpu_tflops * 1e12}
    accelerator = replace(ACCELERATORS[gpu], **{name: value for name, value in given.items() if value})
    found = answer(_question(_shape(base, config), accelerator, int(dataset), values))
    if state.json:
        print_json(found)
        return
    settings = found.pop("settings")
    print_fields({section: {k: _shown(k, v) for k, v in part.items()} for section, part in found.items()})
    for name, value in settings.items():
        click.echo(f"{name}={value}")


def _question(
    shape: ModelShape, accelerator: Accelerator, dataset: int, values: dict[str, float | tuple[str, ...]]
) -> Question:
    return Question(shape, accelerator, dataset_bytes=dataset, **values)  # type: ignore[arg-type]


def _shape(base: str | None, config: Path | None) -> ModelShape:
    if (base is None) == (config is None):
        raise click.UsageError("Name the base model: either with --base, or with --config.")
    if base is not None:
        return BASES[base]
    assert config is not None
    file = config / "config.json" if config.is_dir() else config
    try:
        return shape_of_config(json.loads(file.read_bytes()))
    except (OSError, ValueError, AttributeError, ShapeError) as error:
        raise click.UsageError(f"{str(file)!r} can't be used. {error}") from None


def _shown(name: str, value: float | str) -> str:
    """For people: sizes in the unit that fits them, shares in percent."""
    if isinstance(value, str):
        return value
    if "bytes" in name:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if abs(value) >= _UNITS[unit.removesuffix("B")]:
                return f"{value / _UNITS[unit.removesuffix('B')]:.1f} {unit}"
        return f"{value:.0f} B"
    if name.endswith("overhead"):
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.4g}"
