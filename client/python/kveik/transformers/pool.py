"""Memory that is used again: fresh memory costs its pages, here and in the daemon, which takes
several times as long as a pull into it."""
from __future__ import annotations

import collections
import dataclasses
import weakref
from typing import Any

import kveik

_DROP_MS = 200  # a cache goes away on a thread that has other things to do
_WASTE = 4  # a block is taken for what needs a fourth of it, not for less


@dataclasses.dataclass
class Block:
    """Memory of libkveik. `region`: since it was exported; `layouts`: that were made in it, with
    what they were made for. `lent`: requests that may still read or write it."""

    memory: kveik.Memory
    region: kveik.Region | None = None
    layouts: list[list[int]] = dataclasses.field(default_factory=list)
    made_for: Any = None
    lent: int = 0


class Pool:
    """Blocks that nobody uses, of so many bytes at most.

    Blocks come back when the last tensor over them is gone, which the garbage collector may notice
    anywhere, also in here: so there is no lock, only a queue whose operations are whole.
    """

    def __init__(self, client: kveik.Client, spare_bytes: int):
        self.client = client
        self._spare: collections.deque[Block] = collections.deque()
        self._spare_max = spare_bytes
        self._doubtful: collections.deque[Block] = collections.deque()

    def take(self, nbytes: int, fresh: bool) -> tuple[Block, memoryview]:
        """A block of at least so many bytes, `fresh` for zeroes, and the view to make tensors of:
        the block comes back when nothing holds that view any more. Raises kveik.Error."""
        block = None if fresh else self._fitting(nbytes)
        if block is None:
            block = Block(self.client.allocate(nbytes))
        view = memoryview(block.memory.view)
        weakref.finalize(view, self._give, block).atexit = False
        return block, view

    def _fitting(self, nbytes: int) -> Block | None:
        for _ in range(len(self._spare)):
            try:
                block = self._spare.popleft()
            except IndexError:
                return None
            if nbytes <= block.memory.nbytes <= _WASTE * nbytes:
                return block
            self._spare.append(block)
        return None

    def _give(self, block: Block) -> None:
        spare = sum(one.memory.nbytes for one in tuple(self._spare))
        if block.lent or spare + block.memory.nbytes > self._spare_max:
            self._drop(block)
        else:
            self._spare.append(block)

    def _drop(self, block: Block) -> None:
        """Takes it back from the daemon; with the next one when that does not answer now."""
        self._doubtful.append(block)
        for _ in range(len(self._doubtful)):
            try:
                block = self._doubtful.popleft()
            except IndexError:
                return
            try:
                if block.region is not None:
                    self.client.drop_memory(block.region, timeout_ms=_DROP_MS)
            except kveik.Stuck:
                self._doubtful.append(block)
            except kveik.Error:
                pass  # the client is closed, or this is a child of its process: nothing to drop

    def clear(self) -> None:
        """Gives back what nobody uses, and from now on all that comes."""
        self._spare_max = 0
        while self._spare:
            self._drop(self._spare.pop())
