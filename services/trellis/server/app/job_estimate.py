"""What a job is expected to take, reckoned before it starts: what the ledger holds and its start is predicted from."""

from dataclasses import dataclass
from typing import Final

from trellis.auto import Course, Facts, course_of
from trellis.server.app.auto_settings import ReportedData
from trellis.server.app.job_needs import JobNeeds
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.tuning_job import Estimate
from trellis.server.scheduler.capacity import Resources
from trellis.spec import TrainSpec

_GPU_OPERATIONS: Final = 100e12
"""Floating-point operations a second that training makes on a GPU where nothing was measured."""
_CPU_OPERATIONS: Final = 20e9
"""The same on a CPU."""
_ADAPTER_OPERATIONS: Final = 4
"""A token and parameter: 2 forwards, and 2 backwards through weights that stay as they are."""
_FULL_OPERATIONS: Final = 6
"""A token and parameter when all weights are trained: 2 forwards, 4 backwards."""
_FORWARD_OPERATIONS: Final = 2
_START_SECONDS: Final = 15.0
"""Until a job makes its first step."""
_LEAST_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """What a shared trainer of a base last said, and what it reserved."""

    tokens_per_second: float
    accelerators: float


def estimate_of(spec: TrainSpec, data: ReportedData, needs: JobNeeds, speed: MeasuredSpeed | None) -> Estimate:
    """What a job of this spec, whose settings are all chosen, is expected to take.

    Its accelerators work off the tokens that it trains on, and those that it is evaluated on, which cost only their
    forward pass. How fast is what the base's newest trainer measured, an accelerator, or follows from the number of
    parameters.
    """
    version, report, base = data.version, data.report, data.base
    course = course_of(spec, Facts(base.parameter_count, version.line_count, report.trainable_token_count))
    item = max(report.token_count, report.trainable_token_count, 1) / course.whole
    item = min(item, float(spec.context_length)) if spec.method != "preference" else item
    tokens = round(course.items * item)
    operations = _FULL_OPERATIONS if spec.full else _ADAPTER_OPERATIONS
    work = tokens + _evaluated(spec, course) * item * _FORWARD_OPERATIONS / operations
    pace, rule = _pace(spec, data, needs, speed, operations)
    computing = max(work / pace, _LEAST_SECONDS)
    if spec.distributed is None:
        seconds = computing / (needs.accelerators(needs.trainer) or 1.0)
        taken = computing
    else:
        accelerators = needs.accelerators(needs.alone(spec)) or 1.0
        seconds = computing / accelerators
        taken = (seconds + _START_SECONDS) * accelerators
    return Estimate(needs.of_quota(spec), seconds + _START_SECONDS, taken, tokens, f"{tokens:,} tokens {rule}")


async def measured_speed(unit: UnitOfWork, base_model: str, needs: JobNeeds) -> MeasuredSpeed | None:
    """What the base's newest trainer measured; None where none did."""
    trainer = await unit.trainers.newest_measured(base_model)
    if trainer is None:
        return None
    reserved = needs.accelerators(Resources(trainer.cpus, trainer.gpus))
    return MeasuredSpeed(trainer.tokens_per_second, reserved) if reserved else None


def _evaluated(spec: TrainSpec, course: Course) -> int:
    """Items that are evaluated: those held out, before and after and each time in between, and the answers to some."""
    answered = min(course.held_out, spec.max_evaluation_lines)
    return course.held_out * (2 + course.measurements) + 2 * answered


def _pace(
    spec: TrainSpec, data: ReportedData, needs: JobNeeds, speed: MeasuredSpeed | None, operations: int
) -> tuple[float, str]:
    """Tokens a second and accelerator, and how that was reckoned."""
    if speed is not None:
        pace = speed.tokens_per_second / speed.accelerators * _ADAPTER_OPERATIONS / operations
        return pace, f"at {pace:,.3g} a second and accelerator, as the newest trainer of {spec.base_model} measured."
    on_gpus = needs.capacity.gpus > 0
    each, kind = (_GPU_OPERATIONS, "GPU") if on_gpus else (_CPU_OPERATIONS, "CPU")
    pace = each / (operations * max(data.base.parameter_count, 1))
    return pace, (
        f"at {pace:,.3g} a second and {kind}: {data.base.parameter_count:,} parameters, {operations} operations a token and "
        f"parameter, {each:.0e} operations a second."
    )
