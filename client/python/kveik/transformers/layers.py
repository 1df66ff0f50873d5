"""Layers of a DynamicCache whose tensors are views of a slab: new tokens are written behind the old
ones instead of being concatenated, so that what is pushed and pulled is never copied on the way.

A layer leaves its slab, and is from then on what its base class is, as soon as anybody puts other
tensors into it: cropping, reordering, repeating rows. Nothing that was written once is written
again, so a push that is still under way reads what it should.
"""
from __future__ import annotations

import copy
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

import kveik

from .slab import Slab


class _InSlab:
    """What both kinds of layers share. `_mine` are the views that were put in place here: other
    tensors are somebody else's."""

    slab: Slab | None
    keys: Any
    values: Any
    dtype: torch.dtype
    device: torch.device
    is_initialized: bool
    _mine: tuple[torch.Tensor, torch.Tensor]

    def settle(self, slab: Slab, number: int, tokens: int) -> None:
        """Takes its place as layer `number`, with so many tokens there already."""
        self.slab, self._number = slab, number
        self.dtype, self.device = slab.shape.dtype, torch.device("cpu")
        self.is_initialized = True
        self._show(tokens)

    def _show(self, tokens: int, from_token: int = 0) -> None:
        assert self.slab is not None
        self.keys = self.slab.keys[self._number][:, :, from_token:tokens]
        self.values = self.slab.values[self._number][:, :, from_token:tokens]
        self._mine = (self.keys, self.values)

    def in_slab(self) -> bool:
        """Whether the layer's tensors are views of its slab."""
        return self.slab is not None and self.keys is self._mine[0] and \
            self.values is self._mine[1]

    def _ready(self, keys: torch.Tensor, tokens: int) -> bool:
        """Whether new tokens may be written behind `tokens` old ones; sees to the room for them."""
        slab = self.slab
        if slab is None or not self.in_slab() or slab.filled[self._number] != tokens or \
                keys.shape[0] != slab.rows or keys.dtype != slab.shape.dtype or \
                keys.device.type != "cpu" or torch.is_grad_enabled() and keys.requires_grad:
            return False
        if tokens + keys.shape[-2] > slab.capacity:
            try:
                self.slab = slab.larger(tokens + keys.shape[-2])
            except kveik.Error:
                return False  # the client is closed, or there is no memory
            first = slab.first[self._group(slab)]
            self.slab.put(self._number, first, slab.keys[self._number][:, :, first:tokens],
                          slab.values[self._number][:, :, first:tokens])
        return True

    def _write(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> int:
        """Writes them behind `tokens` old ones; how many there are now."""
        assert self.slab is not None
        return self.slab.put(self._number, tokens, keys, values)

    def _group(self, slab: Slab) -> int:
        return next(group for group, numbers in enumerate(slab.shape.groups)
                    if self._number in numbers)

    def _leave(self) -> None:
        self.slab = None

    def plain(self) -> Any:
        """A copy that knows nothing of slabs."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.plain()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return copy.copy, (self.plain(),)


class SlabLayer(_InSlab, DynamicLayer):
    """Full attention."""

    def __init__(self, slab: Slab, number: int, tokens: int):
        super().__init__()
        self.settle(slab, number, tokens)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds tokens; returns all of them."""
        tokens = self.get_seq_length()
        if not self._ready(key_states, tokens):
            self._leave()
            if tokens == 0:
                self.is_initialized = False  # as empty as a new one: any batch size will do
            return super().update(key_states, value_states, *args, **kwargs)
        self._show(self._write(key_states, value_states, tokens))
        return self.keys, self.values

    def plain(self) -> DynamicLayer:
        """See _InSlab."""
        layer = DynamicLayer()
        return _filled(layer, self)


class SlabWindowLayer(_InSlab, DynamicSlidingWindowLayer):
    """A sliding window. The cache sees the last `sliding_window` - 1 tokens as with its base class;
    the slab keeps all of them, or other prompts that go on from an earlier place would find the
    window there incomplete."""

    def __init__(self, slab: Slab, number: int, tokens: int):
        window = slab.shape.layers[number].window
        super().__init__(sliding_window=window)
        self.cumulative_length = tokens
        self.settle(slab, number, tokens)

    def _show(self, tokens: int, from_token: int = 0) -> None:
        super()._show(tokens, max(0, tokens - self.sliding_window + 1))

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds tokens; returns those that the new ones look at."""
        before = self.cumulative_length
        if self.record_past or not self._ready(key_states, before):
            self._leave()
            if before == 0:
                self.is_initialized = False
            return super().update(key_states, value_states, *args, **kwargs)
        self.cumulative_length = now = self._write(key_states, value_states, before)
        self._show(now)
        assert self.slab is not None
        seen = slice(max(0, before - self.sliding_window + 1), now)
        return (self.slab.keys[self._number][:, :, seen],
                self.slab.values[self._number][:, :, seen])

    def plain(self) -> DynamicSlidingWindowLayer:
        """See _InSlab."""
        layer = DynamicSlidingWindowLayer(sliding_window=self.sliding_window)
        layer.cumulative_length, layer.record_past = self.cumulative_length, self.record_past
        return _filled(layer, self)


def _filled(layer: Any, source: Any) -> Any:
    """With copies of the tensors of `source`."""
    if source.is_initialized and source.keys is not None:
        layer.lazy_initialization(source.keys, source.values)
        if source.keys.numel() > 0:
            layer.keys = source.keys.clone(memory_format=torch.contiguous_format)
            layer.values = source.values.clone(memory_format=torch.contiguous_format)
    return layer


def cache_in(slab: Slab, tokens: int) -> DynamicCache:
    """A DynamicCache over a slab that has so many tokens."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.layers = [(SlabWindowLayer if layer.window else SlabLayer)(slab, number, tokens)
                    for number, layer in enumerate(slab.shape.layers)]
    return cache
