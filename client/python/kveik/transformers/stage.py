"""A cache's tokens in memory that the daemon can read."""
from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, StaticCache

import kveik

from . import static
from .layers import SlabLayer, SlabWindowLayer
from .pool import Pool
from .slab import Slab, first_needed, same_slab, whole_grains
from .space import Shape
from .stats import Stats


def slab_of(cache: Cache) -> Slab | None:
    """The slab that a cache of load() still is in."""
    return same_slab([layer.slab if isinstance(layer, (SlabLayer, SlabWindowLayer)) and
                      layer.in_slab() else None for layer in cache.layers])


def _check(cache: Cache, shape: Shape, rows: int) -> None:
    if not isinstance(cache, (DynamicCache, StaticCache)):
        raise ValueError(f"kveik: the cache is a {type(cache).__name__}; a DynamicCache or a "
                         "StaticCache can be kept")
    if len(cache.layers) != len(shape.layers):
        raise ValueError(f"kveik: the cache has {len(cache.layers)} layers, the model "
                         f"{len(shape.layers)}")
    for number, (layer, wanted) in enumerate(zip(cache.layers, shape.layers)):
        keys: Any = layer.keys
        if keys is None or keys.shape[:2] != (rows, wanted.heads) or \
                keys.shape[3] != wanted.key_elements or keys.dtype != shape.dtype:
            have = "nothing" if keys is None else f"{tuple(keys.shape)} of {keys.dtype}"
            raise ValueError(f"kveik: layer {number} holds {have}; must be {rows} rows of "
                             f"{wanted.heads} heads of {wanted.key_elements} elements of "
                             f"{shape.dtype}")


def _first_tokens(cache: Cache, shape: Shape) -> list[int]:
    """The token that the first place of each layer's tensors is of."""
    if isinstance(cache, StaticCache):
        return [0] * len(shape.layers)
    return [int(layer.get_seq_length()) - layer.keys.shape[2] for layer in cache.layers]


def staged(pool: Pool, shape: Shape, owner: Any, cache: Cache, rows: int, tokens: int,
           counts: Stats) -> Slab | None:
    """The cache's slab, or for a cache that has none a new one with a copy of its tokens. None when
    a window is not complete at the last grain, or there is no memory. Raises ValueError for a cache
    of other tokens or another model."""
    if isinstance(cache, StaticCache):
        static.check(cache, shape, rows)
    _check(cache, shape, rows)
    slab = slab_of(cache)
    if slab is not None:
        if slab.made_with is not owner:
            raise ValueError("kveik: the cache was loaded by another PrefixCache, or the model's "
                             "weights have changed since")
        return slab
    begins = _first_tokens(cache, shape)
    firsts = [whole_grains(begins[numbers[0]]) for numbers in shape.groups]
    if any(first > first_needed(shape.window_of(group), tokens)
           for group, first in enumerate(firsts)):
        return None
    try:
        slab = Slab(pool, shape, rows, tokens)
    except kveik.Error:
        return None
    slab.first = firsts
    with torch.no_grad():
        for number, layer in enumerate(cache.layers):
            begin, first = begins[number], whole_grains(begins[number])
            slab.put(number, first, layer.keys[:, :, first - begin:tokens - begin],
                     layer.values[:, :, first - begin:tokens - begin])
    counts.add("staged_bytes", slab.nbytes)
    return slab
