"""StaticCache: tensors of a fixed size that are written in place and used again.

Whoever resets such a cache does not ask whether a push still reads it. So pushes read a copy, and
pulls write to memory that is given up when the daemon falls silent half-way.
"""
from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import StaticCache, StaticLayer

from .slab import Slab
from .space import Shape, Unsupported


def check(cache: StaticCache, shape: Shape, rows: int) -> None:
    """Raises Unsupported or ValueError unless this cache can hold `rows` sequences of the model."""
    for number, layer in enumerate(cache.layers):
        if type(layer) is not StaticLayer:
            raise Unsupported(f"layer {number} of the StaticCache is a {type(layer).__name__}, "
                              "which overwrites what left its window, and with it what a prefix "
                              "needs; use the DynamicCache of load()")
    if len(cache.layers) != len(shape.layers):
        raise ValueError(f"the StaticCache has {len(cache.layers)} layers, the model "
                         f"{len(shape.layers)}")
    first: Any = cache.layers[0]
    if first.is_initialized and (first.keys.shape[0] != rows or first.dtype != shape.dtype):
        raise ValueError(f"the StaticCache holds {first.keys.shape[0]} rows of {first.dtype}, must "
                         f"be {rows} of {shape.dtype}")


def is_fresh(cache: StaticCache) -> bool:
    """Whether it has no tensors yet, so that a slab's can be put in."""
    return not any(layer.is_initialized for layer in cache.layers)


def put_in(cache: StaticCache, slab: Slab) -> None:
    """Makes a head-major slab's memory the tensors of a fresh cache."""
    for number, layer in enumerate(cache.layers):
        keys, values = slab.keys[number], slab.values[number]
        length = layer.max_cache_len
        layer.dtype, layer.device = keys.dtype, keys.device
        layer.batch_size, layer.num_heads = keys.shape[:2]
        layer.k_head_dim, layer.v_head_dim = keys.shape[-1], values.shape[-1]
        layer.keys, layer.values = keys[:, :, :length], values[:, :, :length]
        for tensor in (layer.keys, layer.values, layer.cumulative_length):
            torch._dynamo.mark_static_address(tensor)
        layer.is_initialized = True


def copy_in(cache: StaticCache, slab: Slab, tokens: int) -> None:
    """Copies the first tokens of a slab to a cache's own tensors."""
    for number, layer in enumerate(cache.layers):
        layer.keys[:, :, :tokens] = slab.keys[number][:, :, :tokens]
        layer.values[:, :, :tokens] = slab.values[number][:, :, :tokens]


def set_length(cache: StaticCache, tokens: int) -> None:
    """Says how many tokens it has."""
    for layer in cache.layers:
        layer.cumulative_length.fill_(tokens)
