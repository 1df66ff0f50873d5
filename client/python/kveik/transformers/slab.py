"""Memory that is a cache's storage and what the daemon reads and writes at the same time."""
from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import kveik

from .pool import Pool
from .space import Shape

GRAIN = kveik.GRAIN_TOKENS
_ALIGN = 64  # bytes, of each layer's tensors


def whole_grains(tokens: int) -> int:
    """Tokens, rounded up."""
    return -(-tokens // GRAIN) * GRAIN


class Slab:
    """Room for the keys and values of all layers: of `rows` sequences, `capacity` tokens each.

    keys, values  a tensor a layer: [row, head, token, element] as transformers has them. In memory
                  tokens lie before heads, so that a page of 16 tokens is one piece; with
                  `head_major` as their shape says, which is what StaticCache is made of
    first         a group's first token that is valid: behind a window nothing was restored
    made_with     what tells whose slab it is, and of which weights
    filled        tokens of each layer that were written here; what is below is never written again,
                  since the daemon may still be reading it

    The daemon sees it once layouts() was called. Its memory is the pool's again when the last
    tensor over it is gone.
    """

    def __init__(self, pool: Pool, shape: Shape, rows: int, tokens: int, *,
                 head_major: bool = False):
        self.shape, self.rows = shape, rows
        self.made_with: Any = None
        self.capacity = max(GRAIN, whole_grains(tokens))
        self.first = [0] * len(shape.groups)
        self.filled = [0] * len(shape.layers)
        self._pool = pool
        self._head_major = head_major
        self._daemon_lock = threading.Lock()  # held while the daemon is waited for
        self._grow_lock = threading.Lock()
        self._successor: weakref.ref[Slab] | None = None
        self._carve()

    # ---- memory ----------------------------------------------------------------------------------
    def _carve(self) -> None:
        sizes = [self._plane_bytes(elements, layer.heads) for layer in self.shape.layers
                 for elements in (layer.key_elements, layer.value_elements)]
        self.nbytes = sum(sizes)
        # what a StaticCache masks out is multiplied by zero, which old bytes may not survive
        self._block, self._view = self._pool.take(self.nbytes, fresh=self._head_major)
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        at = 0
        for number, layer in enumerate(self.shape.layers):
            self.keys.append(self._tensor(at, layer.heads, layer.key_elements))
            at += sizes[2 * number]
            self.values.append(self._tensor(at, layer.heads, layer.value_elements))
            at += sizes[2 * number + 1]

    def _plane_bytes(self, elements: int, heads: int) -> int:
        size = self.rows * self.capacity * heads * elements * self.shape.dtype.itemsize
        return -(-size // _ALIGN) * _ALIGN

    def _tensor(self, offset: int, heads: int, elements: int) -> torch.Tensor:
        """[row, head, token, element]; it keeps the memory alive."""
        count = self.rows * self.capacity * heads * elements
        flat = torch.frombuffer(self._view, dtype=self.shape.dtype, count=count,
                                offset=offset)
        if self._head_major:
            return flat.view(self.rows, heads, self.capacity, elements)
        return flat.view(self.rows, self.capacity, heads, elements).transpose(1, 2)

    def put(self, layer: int, at: int, keys: torch.Tensor, values: torch.Tensor) -> int:
        """Writes tokens [row, head, token, element] to places from `at` on; the place behind."""
        end = at + keys.shape[-2]
        self.keys[layer][:, :, at:end] = keys
        self.values[layer][:, :, at:end] = values
        self.filled[layer] = max(self.filled[layer], end)
        return end

    def larger(self, tokens: int) -> Slab:
        """A slab with room for so many tokens, twice as large as this one; all layers that ask get
        the same."""
        with self._grow_lock:
            grown = self._successor() if self._successor is not None else None
            if grown is None or grown.capacity < tokens:
                grown = Slab(self._pool, self.shape, self.rows, max(tokens, 2 * self.capacity))
                grown.first, grown.made_with = list(self.first), self.made_with
                self._successor = weakref.ref(grown)
            return grown

    # ---- the daemon's view -----------------------------------------------------------------------
    def layouts(self, space: int) -> list[list[int]]:
        """Handles by row and group, in that space. Exports the memory when it was not. May wait for
        the daemon; raises kveik.Error."""
        block, made_for = self._block, (space, self.rows, self.capacity, self._head_major)
        with self._daemon_lock:
            if block.made_for != made_for:
                if block.region is None:
                    memory = block.memory  # by address: an owner in the client would be a user
                    block.region = self._pool.client.export((memory.address, memory.nbytes))
                while block.layouts:
                    for layout in block.layouts.pop():
                        self._pool.client.drop_layout(layout)
                block.made_for = None
                for row in range(self.rows):
                    block.layouts.append([self._layout(space, row, group)
                                          for group in range(len(self.shape.groups))])
                block.made_for = made_for
            return block.layouts

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Around a request. One that raised may still be under way: its memory is used no more."""
        with self._daemon_lock:
            self._block.lent += 1
        yield
        with self._daemon_lock:
            self._block.lent -= 1

    def _layout(self, space: int, row: int, group: int) -> int:
        numbers = self.shape.groups[group]
        planes = [self._plane(tensor[row]) for number in numbers
                  for tensor in (self.keys[number], self.values[number])]
        return self._pool.client.register_layout(
            space, group=group, page_tokens=GRAIN, page_count=self.capacity // GRAIN,
            head_count=self.shape.layers[numbers[0]].heads, planes=planes)

    def _plane(self, tensor: torch.Tensor) -> kveik.Plane:
        """Of a tensor [head, token, element] in this memory."""
        size, region = tensor.element_size(), self._block.region
        assert region is not None
        head, token, element = (step * size for step in tensor.stride())
        return kveik.Plane(region, tensor.data_ptr() - region.address, page_stride=GRAIN * token,
                           token_stride=token, head_stride=head, element_stride=element)

    def runs(self, space: int, row: int, tokens: int) -> list[tuple[int, int, int]]:
        """Of each group of a row: (layout, first grain, end) of the grains that are valid here."""
        return [(layout, whole_grains(self.first[group]) // GRAIN, tokens // GRAIN)
                for group, layout in enumerate(self.layouts(space)[row])]

    def restored(self, tokens: int) -> None:
        """Says that a pull filled it up to there."""
        for group, numbers in enumerate(self.shape.groups):
            self.first[group] = first_needed(self.shape.window_of(group), tokens)
            for number in numbers:
                self.filled[number] = tokens


def first_needed(window: int, tokens: int) -> int:
    """The first token, a grain's, that a layer needs to go on after `tokens`."""
    return max(0, tokens - window + 1) // GRAIN * GRAIN if window else 0


def same_slab(slabs: Sequence[Slab | None]) -> Slab | None:
    """The slab that all layers are in, or None."""
    first = slabs[0] if slabs else None
    return first if first is not None and all(slab is first for slab in slabs) else None
