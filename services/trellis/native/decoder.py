"""A whole decoder layer of a step in one call: on a CPU, what Python does between its kernels takes a sixth of a step.

Tensors' shapes: T tokens, F features, d numbers of a head that are turned.
"""

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from trellis.native.attention import CacheOperands, StepTable
from trellis.native.build import library
from trellis.native.linear import PackedLinear
from trellis.native.lora import LoraOperands, SegmentTable

__all__ = ["AdaptedLinear", "DecoderOperands", "DecoderStep", "Norm", "Reading"]


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm: x / √(mean(x²) + eps) · (weight + offset)."""

    weight_F: Tensor
    eps: float
    offset: float


@dataclass(frozen=True, slots=True)
class AdaptedLinear:
    """A product with a frozen weight, and the bank's tensors of what adapters add to it."""

    product: PackedLinear
    adapters: LoraOperands


@dataclass(frozen=True, slots=True)
class Reading:
    """How a layer's queries read the cache; a window or softcap of 0 is none."""

    scaling: float
    window: int = 0
    softcap: float = 0.0
    query_norm: Norm | None = None
    """Of each head of the queries, and `key_norm` of the keys."""
    key_norm: Norm | None = None


class _Norm(ctypes.Structure):
    """`Norm` of decoder.cpp."""

    _fields_ = (("weight", ctypes.c_void_p), ("eps", ctypes.c_float), ("offset", ctypes.c_float))


class _Linear(ctypes.Structure):
    """`Linear` of decoder.cpp."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("group", ctypes.c_void_p),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
    )


class _Decoder(ctypes.Structure):
    """`Decoder` of decoder.cpp."""

    _fields_ = (
        *((name, _Norm) for name in ("before", "between", "queries", "keys")),
        *((name, _Linear) for name in ("qkv", "output", "gate_up", "down")),
        ("cache", ctypes.c_void_p),
        ("heads", ctypes.c_int64),
        ("rotated", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("window", ctypes.c_int64),
    )


class _Step(ctypes.Structure):
    """`DecoderStep` of decoder.cpp."""

    _fields_ = (
        ("step", ctypes.c_void_p),
        ("segments", ctypes.c_void_p),
        ("segment_count", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
    )


@functools.cache
def _kernel() -> Any:
    function = library().trellis_decoder_layer
    function.argtypes = (*(ctypes.c_void_p,) * 4, ctypes.c_int, ctypes.c_int)
    function.restype = None
    return function


class DecoderStep:
    """What all layers of one step have in common: its sequences, its adapters, its rotation."""

    __slots__ = ("_keep", "address", "dtype", "rotated", "segments", "step")

    def __init__(self, step: StepTable, segments: SegmentTable | None, cos_Td: Tensor, sin_Td: Tensor) -> None:
        """Raises ValueError for tables that do not fit each other."""
        tokens, rotated = cos_Td.shape
        if sin_Td.shape != cos_Td.shape or not (cos_Td.is_contiguous() and sin_Td.is_contiguous()) or rotated % 2:
            raise ValueError("Cosines and sines are contiguous and of one even size.")
        if tokens != step.tokens or (segments is not None and segments.tokens > tokens) or sin_Td.dtype != cos_Td.dtype:
            raise ValueError("The step, its segments and its rotation are not of the same tokens.")
        count, address = (0, None) if segments is None else (segments.count, segments.address)
        table = _Step(step.address, address, count, tokens, cos_Td.data_ptr(), sin_Td.data_ptr())
        self._keep = (step, segments, cos_Td, sin_Td, table)
        self.address: Final = ctypes.addressof(table)
        self.dtype: Final = cos_Td.dtype
        self.rotated: Final = rotated
        self.segments: Final = segments
        self.step: Final = step


class DecoderOperands:
    """A layer's weights, adapters and cache, with their addresses at hand; made once, it keeps the tensors alive."""

    __slots__ = ("_cache", "_groups", "_is_bf16", "_keep", "_rotated", "address", "dtype", "features")

    def __init__(
        self,
        norms: tuple[Norm, Norm],
        linears: tuple[AdaptedLinear, AdaptedLinear, AdaptedLinear, AdaptedLinear],
        cache: CacheOperands,
        reading: Reading,
        rotated: int,
    ) -> None:
        """`norms` are those before attention and before the feed-forward part; `linears` q, k and v, the attention's output,
        gate and up, and down; the first `rotated` numbers of each head are turned.

        Raises ValueError for parts that do not fit each other.
        """
        (features, _), (attended, _), _, (wide, _) = (linear.product.sizes for linear in linears)
        size = cache.key_size
        if cache.value_size != size or rotated > size or rotated % 2:
            raise ValueError("Keys and values are of one size, of which an even part is turned.")
        heads = attended // size
        wanted = (
            (features, (heads + 2 * cache.heads) * size),
            (heads * size, features),
            (features, 2 * wide),
            (wide, features),
        )
        for linear, sizes in zip(linears, wanted, strict=True):
            adapters = linear.adapters
            if linear.product.sizes != sizes or (adapters.in_features, adapters.out_features) != sizes:
                raise ValueError("The linears are not those of one decoder layer.")
            if not linear.product.dtype == adapters.dtype == cache.dtype:
                raise ValueError("Weights, adapters and cache are of one dtype.")
        if heads % cache.heads:
            raise ValueError("Each key-value head serves as many query heads as any other.")
        table = _Decoder(
            *(_of(norm, features, cache.dtype) for norm in norms),
            *(_of(norm, size, cache.dtype) for norm in (reading.query_norm, reading.key_norm)),
            *(
                _Linear(each.product.address, each.product.bias_address, each.adapters.address, *each.product.sizes)
                for each in linears
            ),
            cache.address,
            heads,
            rotated,
            reading.scaling,
            reading.softcap,
            reading.window,
        )
        self._keep = (norms, linears, cache, reading, table)
        self._cache, self._rotated = cache, rotated
        self._groups = tuple(each.adapters for each in linears)
        self._is_bf16 = int(cache.dtype == torch.bfloat16)
        self.address: Final = ctypes.addressof(table)
        self.dtype: Final = cache.dtype
        self.features: Final = features

    def __call__(self, x_TF: Tensor, step: DecoderStep) -> Tensor:
        """The layer's answer, of the same shape; the step's keys and values are in the cache then.

        Raises ValueError for rows or a step that do not fit the layer.
        """
        tables, cache, segments = step.step, self._cache, step.segments
        if x_TF.shape != (tables.tokens, self.features) or x_TF.dtype != self.dtype or not x_TF.is_contiguous():
            raise ValueError("The rows are those of the step, of the layer's size and dtype, and lie in one piece.")
        if tables.blocks > cache.blocks or tables.block_tokens != cache.block_tokens:
            raise ValueError("The step's blocks are not of this cache.")
        if step.rotated != self._rotated or step.dtype != self.dtype:
            raise ValueError("The rotation is not of this layer.")
        if segments is not None and any(segments.slots > each.slots for each in self._groups):
            raise ValueError("The segments name rows or slots that are not there.")
        y_TF = torch.empty_like(x_TF)
        _kernel()(self.address, step.address, x_TF.data_ptr(), y_TF.data_ptr(), self._is_bf16, torch.get_num_threads())
        return y_TF


def _of(norm: Norm | None, size: int, dtype: torch.dtype) -> _Norm:
    if norm is None:
        return _Norm(None, 0.0, 0.0)
    weight = norm.weight_F
    if weight.shape != (size,) or weight.dtype != dtype or not weight.is_contiguous():
        raise ValueError("A norm's weight is of the rows' size and dtype.")
    return _Norm(weight.data_ptr(), norm.eps, norm.offset)
