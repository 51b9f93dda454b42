"""What fits, and what it costs: arithmetic over a base model's shape, before anything is bought. Pure."""

from trellis.sizing.accelerator import ACCELERATORS, Accelerator
from trellis.sizing.price import Throughput, cost_of_a_million
from trellis.sizing.report import Question, answer
from trellis.sizing.serving import EngineSize
from trellis.sizing.shape import BASES, ModelShape, ShapeError, shape_of_config
from trellis.sizing.storage import JobStorage
from trellis.sizing.training import TrainerSize

__all__ = [
    "ACCELERATORS",
    "BASES",
    "Accelerator",
    "EngineSize",
    "JobStorage",
    "ModelShape",
    "Question",
    "ShapeError",
    "Throughput",
    "TrainerSize",
    "answer",
    "cost_of_a_million",
    "shape_of_config",
]
