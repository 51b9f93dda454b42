"""Which way attention is computed where."""

import torch

from trellis.engine.attention import AttentionBackend, NativeBackend, SdpaBackend
from trellis.engine.cuda import paged
from trellis.engine.cuda.attention import CudaBackend
from trellis.engine.kv_cache import KVCache
from trellis.native import attention as native
from trellis.native.build import available


def choose_backend(cache: KVCache, device: torch.device) -> AttentionBackend:
    """The fastest one that can serve the cache here."""
    layers = [layer.keys_NHtD for layer in cache.layers.values()]
    if paged.supports(device):
        return CudaBackend()
    if device.type == "cpu" and available() and all(native.supports(keys.dtype, *keys.shape[2:]) for keys in layers):
        return NativeBackend()
    return SdpaBackend()
