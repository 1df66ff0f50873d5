"""Memory that is a cache's storage and what the daemon reads and writes at the same time."""
from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch

import kveik

from .space import Shape

GRAIN = kveik.GRAIN_TOKENS
_DROP_MS = 200  # a cache goes away on a thread that has other things to do
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

    The daemon sees it once layouts() was called, and until the slab is gone.
    """

    def __init__(self, client: kveik.Client, shape: Shape, rows: int, tokens: int, *,
                 head_major: bool = False):
        self.shape, self.rows = shape, rows
        self.made_with: Any = None
        self.capacity = max(GRAIN, whole_grains(tokens))
        self.first = [0] * len(shape.groups)
        self.filled = [0] * len(shape.layers)
        self._client = client
        self._head_major = head_major
        self._daemon_lock = threading.Lock()  # held while the daemon is waited for
        self._grow_lock = threading.Lock()
        self._layouts: tuple[int, list[list[int]]] | None = None
        self._regions: list[kveik.Region] = []
        self._successor: weakref.ref[Slab] | None = None
        self._carve()

    # ---- memory ----------------------------------------------------------------------------------
    def _carve(self) -> None:
        sizes = [self._plane_bytes(elements, layer.heads) for layer in self.shape.layers
                 for elements in (layer.key_elements, layer.value_elements)]
        self.nbytes = sum(sizes)
        self._memory = self._client.allocate(self.nbytes)
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
        flat = torch.frombuffer(self._memory.view, dtype=self.shape.dtype, count=count,
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
                grown = Slab(self._client, self.shape, self.rows, max(tokens, 2 * self.capacity))
                grown.first, grown.made_with = list(self.first), self.made_with
                self._successor = weakref.ref(grown)
            return grown

    # ---- the daemon's view -----------------------------------------------------------------------
    def layouts(self, space: int) -> list[list[int]]:
        """Handles by row and group, in that space. Exports the memory when it was not. May wait for
        the daemon; raises kveik.Error."""
        with self._daemon_lock:
            if self._layouts is not None and self._layouts[0] == space:
                return self._layouts[1]
            if not self._regions:
                region = self._client.export(self._memory)
                self._regions.append(region)
                weakref.finalize(self, drop, self._client, region)
            made = [[self._layout(space, row, group) for group in range(len(self.shape.groups))]
                    for row in range(self.rows)]
            self._layouts = (space, made)
            return made

    def _layout(self, space: int, row: int, group: int) -> int:
        numbers = self.shape.groups[group]
        planes = [self._plane(tensor[row]) for number in numbers
                  for tensor in (self.keys[number], self.values[number])]
        return self._client.register_layout(
            space, group=group, page_tokens=GRAIN, page_count=self.capacity // GRAIN,
            head_count=self.shape.layers[numbers[0]].heads, planes=planes)

    def _plane(self, tensor: torch.Tensor) -> kveik.Plane:
        """Of a tensor [head, token, element] in this memory."""
        size, region = tensor.element_size(), self._regions[0]
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


_undropped: list[tuple[Any, kveik.Region]] = []  # regions that a silent daemon may still copy to


def drop(client: kveik.Client, region: kveik.Region) -> None:
    """Takes memory back from the daemon; tries again with the next one when it does not answer."""
    waiting = [*_undropped, (client, region)]
    _undropped.clear()
    for owner, one in waiting:
        try:
            owner.drop_memory(one, timeout_ms=_DROP_MS)
        except kveik.Stuck:
            _undropped.append((owner, one))
        except kveik.Error:
            pass  # the client is closed, or this is a child of its process: nothing to drop


def same_slab(slabs: Sequence[Slab | None]) -> Slab | None:
    """The slab that all layers are in, or None."""
    first = slabs[0] if slabs else None
    return first if first is not None and all(slab is first for slab in slabs) else None
