"""What training and serving share: many adapters of any ranks and targets beside one base model."""

from trellis.lora.bank import AdapterBank, BankFullError, GroupBank
from trellis.lora.groups import LoraGroup, find_groups
from trellis.lora.host import HostAdapter
from trellis.lora.linear import ActiveLora, LoraLinear, install
from trellis.lora.ops import OPS, adapted
from trellis.lora.peft_files import read_adapter, write_adapter
from trellis.lora.segments import Segment, Segments
from trellis.lora.weights import LoraPair, LoraWeights

__all__ = [
    "OPS",
    "ActiveLora",
    "AdapterBank",
    "BankFullError",
    "GroupBank",
    "HostAdapter",
    "LoraGroup",
    "LoraLinear",
    "LoraPair",
    "LoraWeights",
    "Segment",
    "Segments",
    "adapted",
    "find_groups",
    "install",
    "read_adapter",
    "write_adapter",
]
