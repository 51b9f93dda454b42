"""Ways to compute `y += lora(x)` for a mixed batch, all with one contract and tested against `reference`.

An op is a module with NAME, `supports(device, dtype)` and `add_lora(y_TO, x_TI, bank, segments)`, which works in place
and lets no segment's rows or weights into another's.
"""

from trellis.lora.ops import grouped, native, reference, segmented, stacked, triton
from trellis.lora.ops.differentiable import Masked, adapted
from trellis.lora.ops.plan import Op, TrainingOp, choose, choose_for_training

OPS: dict[str, Op] = {op.NAME: op for op in (reference, segmented, stacked, grouped, native, triton)}

__all__ = ["OPS", "Masked", "Op", "TrainingOp", "adapted", "choose", "choose_for_training"]
