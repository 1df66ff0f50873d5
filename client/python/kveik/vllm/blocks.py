"""References on vLLM's blocks: a block that a copy reads or writes has an owner until the copy is
done, whatever becomes of the request: finished, aborted, preempted, its window moved on. So no
block changes hands under a copy, and nothing has to be waited for."""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool


class Blocks:
    """The engine's block pool, as far as copies hold it."""

    def __init__(self, pool: BlockPool):
        self._pool = pool
        self._null = pool.null_block.block_id
        self.held = 0

    @property
    def count(self) -> int:
        """All blocks of the pool."""
        return len(self._pool.blocks)

    def is_null(self, page: int) -> bool:
        """The place of a block that the request does not keep (outside its window)."""
        return page == self._null

    def hold(self, pages: Iterable[int]) -> None:
        """Keeps blocks from being reused."""
        blocks = [self._pool.blocks[page] for page in pages]
        self._pool.touch(blocks)
        self.held += len(blocks)

    def free(self, pages: Iterable[int]) -> None:
        """Gives up what hold() took; the last first, as vLLM frees a request's own."""
        blocks = [self._pool.blocks[page] for page in pages]
        self._pool.free_blocks(reversed(blocks))
        self.held -= len(blocks)

    def only_ours(self, pages: Iterable[int]) -> bool:
        """Whether nobody else holds one of them, so that it is free once the copy is done."""
        return any(self._pool.blocks[page].ref_cnt == 1 for page in pages)
