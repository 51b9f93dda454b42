"""From the price of an hour of a GPU to that of a million tokens."""

from dataclasses import dataclass
from typing import Final

from trellis.sizing.serving import EngineSize
from trellis.sizing.training import TrainerSize

READING_EFFICIENCY: Final = 0.6
"""Of the memory's bandwidth that decoding reaches, over all steps of a busy hour; an assumption to be measured."""
COMPUTING_EFFICIENCY: Final = 0.4
"""Of the peak that prompts and training reach; an assumption to be measured."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens a second of one GPU that does nothing else, by what bounds each kind: memory for answers, arithmetic else."""

    engine: EngineSize
    trainer: TrainerSize
    answers: int
    """Calls that are answered at once."""
    distinct: int
    """Different adapters among them."""
    reading: float = READING_EFFICIENCY
    computing: float = COMPUTING_EFFICIENCY

    @property
    def completion(self) -> float:
        """Tokens of answers."""
        seconds = self.engine.step_bytes(self.answers, self.distinct) / self.engine.accelerator.bandwidth
        return min(self.reading * self.answers / seconds, self.prompt)

    @property
    def prompt(self) -> float:
        """Tokens of prompts: two operations a weight, the adapter's among them."""
        shape = self.engine.shape
        operations = 2.0 * (shape.read_parameters + shape.lora_parameters(self.engine.rank, self.engine.targets))
        return self.computing * self.engine.accelerator.flops / operations

    @property
    def trained(self) -> float:
        """Tokens that are trained on."""
        return self.computing * self.trainer.accelerator.flops / self.trainer.flops_per_token


def cost_of_a_million(price_of_an_hour: float, tokens_per_second: float) -> float:
    """Of tokens, where the GPU is paid by the hour and busy all the time. Raises ValueError for no tokens."""
    if tokens_per_second <= 0:
        raise ValueError("Tokens a second must be more than 0.")
    return price_of_an_hour / 3600 * 1e6 / tokens_per_second
