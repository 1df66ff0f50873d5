"""A worker's KV memory as kveikd sees it: exported once, a layout for each group of layers."""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import kveik

from .log import logger
from .space import GroupShare, Shape, Unsupported

if TYPE_CHECKING:
    import torch


_RETRY_S = 0.5


@dataclasses.dataclass(frozen=True)
class Layers:
    """Consecutive layers of a group whose pages move together: one layout."""

    group: int
    names: tuple[str, ...]
    layout: int


def check_tensor(name: str, tensor: torch.Tensor, share: GroupShare, shape: Shape) -> None:
    """Raises Unsupported unless it is [block, head, token, K and V], with each head of a block in
    one piece."""
    wanted = (shape.blocks, share.heads, shape.block_tokens, share.head_elements)
    if tensor.device.type != "cpu":
        raise Unsupported(f"{name} lies in {tensor.device.type} memory; this version of kveikd "
                          "reads CPU memory")
    if tuple(tensor.shape) != wanted:
        raise Unsupported(f"{name} has shape {tuple(tensor.shape)}, expected {wanted} "
                          "(blocks, KV heads, tokens, K and V)")
    inner = share.head_elements
    if tensor.stride(3) != 1 or tensor.stride(2) != inner or \
            tensor.stride(1) < inner * shape.block_tokens and share.heads > 1:
        raise Unsupported(f"{name} has strides {tuple(tensor.stride())}: a head of a block must be "
                          "one piece of memory")


class Memory:
    """Exports the caches and registers what is needed to move them; while the daemon is away, it
    tries again. Once that is done, the library does it again for each new daemon."""

    def __init__(self, client: kveik.Client, shape: Shape, caches: Mapping[str, torch.Tensor],
                 layers_together: int):
        self._client = client
        self._shape = shape
        self._caches = caches
        self._together = layers_together  # layers of one layout; 0: all of a group
        self._regions: dict[int, kveik.Region] = {}  # by the address of the storage
        self._next_at = 0.0
        self.layers: list[list[Layers]] = []  # by group
        self.whole: list[int] = []  # by group: the layout of all its layers
        for share in shape.groups:
            for name in share.layer_names:
                check_tensor(name, caches[name], share, shape)

    def ready(self) -> bool:
        """Whether pages can be moved; sees to it."""
        now = time.monotonic()
        if not self.layers and now >= self._next_at:
            self._next_at = now + _RETRY_S
            try:
                self._register()
            except (kveik.Unavailable, kveik.Deadline, kveik.Lost) as error:
                logger.debug("kveik: memory: %s", error)
        return bool(self.layers)

    def _register(self) -> None:
        space = self._shape.register(self._client)
        for tensor in self._caches.values():
            self._export(tensor)
        layers = [self._layouts(space, number, share)
                  for number, share in enumerate(self._shape.groups)]
        self.whole = [made[0].layout if len(made) == 1 else
                      self._layout(space, number, share, share.layer_begin,
                                   share.layer_names).layout
                      for number, (share, made) in enumerate(zip(self._shape.groups, layers))]
        self.layers = layers  # last: ready when it is there

    def _export(self, tensor: torch.Tensor) -> kveik.Region:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._regions:
            began = time.monotonic()
            region = self._client.export((address, storage.nbytes()))
            logger.info("kveik: exported %d MiB of KV (%s) in %.1f s", storage.nbytes() >> 20,
                        region.mode.name.lower(), time.monotonic() - began)
            self._regions[address] = region
        return self._regions[address]

    def _layouts(self, space: int, number: int, share: GroupShare) -> list[Layers]:
        names = share.layer_names
        together = self._together or len(names)
        return [self._layout(space, number, share, share.layer_begin + at, names[at:at + together])
                for at in range(0, len(names), together)]

    def _layout(self, space: int, number: int, share: GroupShare, first: int,
                names: Sequence[str]) -> Layers:
        planes = []
        for name in names:
            tensor: Any = self._caches[name]
            bytes_each = tensor.element_size()
            planes.append(kveik.Plane(self._export(tensor),
                                      tensor.storage_offset() * bytes_each,
                                      page_stride=tensor.stride(0) * bytes_each,
                                      head_stride=tensor.stride(1) * bytes_each))
        layout = self._client.register_layout(
            space, group=number, page_tokens=self._shape.block_tokens,
            page_count=self._shape.blocks, planes=planes, layer_begin=first,
            layer_count=len(names), head_begin=share.head_begin, head_count=share.heads,
            page_bytes=share.head_bytes)
        return Layers(number, tuple(names), layout)
